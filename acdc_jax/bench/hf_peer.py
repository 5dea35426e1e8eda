"""Time `generate` of Hugging Face transformers, in a separate process.

    python -m acdc_jax.bench.hf_peer '{"config": …, "batch": 64, "prompt": 960, "new": 64}'

prints one JSON object. It must run before JAX allocates the device's memory.
"""

import json
import sys
import time
from typing import Any

from acdc_jax.bench.torch_process import run_torch
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.families import to_hf

_SHORT = 8  # new tokens of the run whose time is subtracted: that of the prefill


def tokens_per_second(config: ModelConfig, batch: int, prompt: int, new: int) -> float | None:
    """Return the tokens per second of greedy `generate`, without the time of the prefill.

    Args:
        config: Shape of the model; its weights are random.
        batch: Number of sequences decoded at once.
        prompt: Tokens of each prompt.
        new: Tokens whose decoding is timed.

    Returns:
        The rate, or None if torch is not installed.

    Raises:
        AcdcError: `generate` failed.
    """
    task = {
        "config": to_hf(config),
        "dtype": config.dtype,
        "batch": batch,
        "prompt": prompt,
        "new": new,
    }
    result = run_torch(
        __name__,
        task,
        "Hugging Face generate",
        "leave hf out of --parts to go on without it",
    )
    return None if result is None else float(result["tokens_per_second"])


def _measure(task: dict[str, Any]) -> float:
    """Return the tokens per second of a task, as `tokens_per_second` describes it."""
    import torch
    import transformers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    fields = task["config"]
    config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, task["dtype"])
        )
    model.eval()
    tokens = torch.randint(0, config.vocab_size, (task["batch"], task["prompt"]), device=device)

    def seconds(new: int) -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            tokens_out = model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                do_sample=False,
                min_new_tokens=new,
                max_new_tokens=new,
                pad_token_id=0,
            )
            tokens_out.cpu()  # waits for the device
        return time.perf_counter() - start

    seconds(_SHORT)  # warms up
    short_s, long_s = seconds(_SHORT), seconds(_SHORT + task["new"])
    return float(task["batch"] * task["new"] / (long_s - short_s))


if __name__ == "__main__":
    print(json.dumps({"tokens_per_second": _measure(json.loads(sys.argv[1]))}))
