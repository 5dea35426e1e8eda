"""Merge two fine-tunes of one base, mutate the child, ask it a question, and save it.

    python -m acdc_jax.examples.merge_two_models \
        Qwen/Qwen2.5-0.5B Qwen/Qwen2.5-0.5B-Instruct Qwen/Qwen2.5-Coder-0.5B-Instruct child
"""

import sys

import jax

import acdc_jax as acdc


def main(base_name: str, first: str, second: str, out: str) -> str:
    """Merge the models of two Hugging Face folders or Hub ids; return the child's answer."""
    base, a, b = map(acdc.load_hf, (base_name, first, second))
    # TIES keeps the largest half of each task vector and elects one sign per entry.
    child = acdc.merge(base, [a, b], weights=[0.5, 0.5], method="ties", density=0.5)
    # The paper's mutation: noise on the largest singular values of each projection.
    child = acdc.mutate(child, jax.random.key(0), acdc.SVDNoise(scale=0.01, rank=256))
    (answer,) = acdc.generate(child, ["Why is the sky blue?"], max_new_tokens=64)
    acdc.save_hf(child, out)
    return answer


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
