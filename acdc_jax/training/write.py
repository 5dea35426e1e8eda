"""Write experts: ordinary Hugging Face folders, or adapter folders as PEFT reads them."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from acdc_jax.errors import AcdcError
from acdc_jax.models import hub
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.find_model import is_on_hub
from acdc_jax.models.hf import hf_names, is_multimodal
from acdc_jax.models.hf_export import check_vacant
from acdc_jax.models.json_files import write_json
from acdc_jax.models.model_card import UNKNOWN, bases_of, licence_of
from acdc_jax.models.text_files import MODEL_CARD
from acdc_jax.params import Params
from acdc_jax.training import lora
from acdc_jax.training.data import ExpertData
from acdc_jax.training.options import ExpertOptions, TrainOptions

_MODULES = "base_model.model."  # before the names of modules in PEFT's files


def check_adapter_base(folder: Path) -> None:
    """Raise AcdcError if adapters of a base cannot be written."""
    if is_multimodal(folder):
        raise AcdcError(
            f"{folder}: adapters of a multimodal base are not written; write whole models with "
            "--merge_adapters"
        )


def write_adapter(
    folder: Path, config: ModelConfig, adapter: Params, options: TrainOptions, base: str, card: str
) -> None:
    """Write a folder that PEFT loads; it appears complete or not at all.

    Args:
        folder: Target; it must not exist, or be empty.
        config: Shape of the base.
        adapter: From training.
        options: Rank and scale.
        base: Name of the base, for `base_model_name_or_path`.
        card: The model card.

    Raises:
        AcdcError: The folder is not empty or cannot be written, or a number is not finite.
    """
    check_vacant(folder)
    names = hf_names(config)
    tensors: dict[str, np.ndarray] = {}
    for path in lora.projections(config):
        module = names[path].removesuffix(".weight")
        for leaf in ("a", "b"):
            values = np.asarray(adapter[f"{path}.{leaf}"])
            if not np.isfinite(values).all():
                raise AcdcError(f"{folder}: the adapter of {module} has values that are not finite")
            tensors[f"{_MODULES}{module}.lora_{leaf.upper()}.weight"] = values
    rank = options.lora_rank
    assert rank is not None
    fields = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": options.lora_scale * rank,
        "target_modules": sorted({names[path].split(".")[-2] for path in lora.projections(config)}),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        try:
            save_file(tensors, partial / hub.ADAPTER_WEIGHTS[0], metadata={"format": "pt"})
            write_json(partial / hub.ADAPTER_CONFIG, fields)
            (partial / MODEL_CARD).write_text(card, encoding="utf-8")
            partial.replace(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise AcdcError(f"{folder}: cannot write: {error.strerror or error}") from error


def model_card(
    data: ExpertData,
    base: Path,
    experts: ExpertOptions,
    training: TrainOptions,
    losses: tuple[float, float],
    flags: Mapping[str, str],
) -> str:
    """Return an expert's README.md, with the header that the Hugging Face Hub reads.

    Args:
        data: What it was trained on.
        base: Folder of the base.
        experts: The base's name.
        training: How it was trained.
        losses: Mean loss of the first and of the last steps.
        flags: Flag → value, as written.
    """
    from huggingface_hub import ModelCardData

    name = experts.base_model or ""
    hub_ids = (name.partition("@")[0],) if is_on_hub(name) else bases_of(base)
    licence = licence_of(base)
    adapter = training.lora_rank is not None and not training.merge_adapters
    header = ModelCardData(
        base_model=list(hub_ids) or None,
        base_model_relation=("adapter" if adapter else "finetune") if hub_ids else None,
        library_name="peft" if adapter else "transformers",
        license=None if licence == UNKNOWN else licence,
        pipeline_tag="text-generation",
        tags=["acdc", "lora"] if training.lora_rank else ["acdc"],
    )
    what = "All weights were" if training.lora_rank is None else "A LoRA adapter was"
    base_name = hub_ids[0] if hub_ids else Path(name).name
    first, last = losses
    settings = "\n".join(f"--{flag}={value}" for flag, value in flags.items())
    left_out = f"; {data.too_long} were too long" if data.too_long else ""
    stated = "states no licence" if licence == UNKNOWN else f"has the licence {licence}"
    return f"""---
{header.to_yaml().strip()}
---

# {data.name}

An expert for [AC/DC](https://arxiv.org/abs/2604.14969), fine-tuned from {base_name}, which
{stated}. It was trained on {data.about} ({data.conversations} conversations{left_out}).

{what} trained on the tokens of the answers for {training.steps} steps. The loss was
{first:.3f} in the first steps and {last:.3f} in the last ones.

`acdc experts` made it with these flags:

```
{settings}
```
"""
