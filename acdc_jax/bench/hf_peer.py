"""The peer: `generate` of Hugging Face transformers, in a process of its own.

    python -m acdc_jax.bench.hf_peer '{"config": …, "batch": 64, "prompt": 960, "new": 64}'

prints one JSON object. It is run before JAX takes the device's memory.
"""

import json
import subprocess
import sys
import time
from typing import Any

from acdc_jax.errors import AcdcError
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.families import to_hf

_FEW = 8  # new tokens of the run whose time is subtracted: reading the prompts, and warming up


def tokens_per_second(config: ModelConfig, batch: int, prompt: int, new: int) -> float | str:
    """Decoded tokens per second of greedy `generate`, the reading of prompts left out.

    Args:
        config: The decoder; weights are random.
        batch: Sequences at once.
        prompt: Tokens before the first that counts, less a few.
        new: Tokens whose time is taken.

    Returns:
        The rate, or why there is none: torch is missing.
    """
    task = {"config": to_hf(config), "dtype": config.dtype, "batch": batch}
    done = subprocess.run(
        [sys.executable, "-m", __name__, json.dumps(task | {"prompt": prompt, "new": new})],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        if "No module named 'torch'" in done.stderr:
            return "torch is not installed"
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise AcdcError(f"Hugging Face generate failed: {last}")
    return float(json.loads(done.stdout.splitlines()[-1])["tokens_per_second"])


def _measure(task: dict[str, Any]) -> float:
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
        began = time.perf_counter()
        with torch.inference_mode():
            written = model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                do_sample=False,
                min_new_tokens=new,
                max_new_tokens=new,
                pad_token_id=0,
            )
            written.cpu()  # waits for the device
        return time.perf_counter() - began

    seconds(_FEW)
    few, many = seconds(_FEW), seconds(_FEW + task["new"])
    return float(task["batch"] * task["new"] / (many - few))


if __name__ == "__main__":
    print(json.dumps({"tokens_per_second": _measure(json.loads(sys.argv[1]))}))
