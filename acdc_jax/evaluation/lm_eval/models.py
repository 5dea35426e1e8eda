"""Members of a run, and other models, as models of lm-evaluation-harness."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax

from acdc_jax.evaluation.lm_eval.lm import HarnessModel, TextFormat
from acdc_jax.evaluation.lm_eval.plan import Plan
from acdc_jax.inference.device_groups import DeviceGroups
from acdc_jax.inference.sampling import Sampling, stable_number
from acdc_jax.models import hf, tokenizer
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.fused_weights import fuse_weights
from acdc_jax.models.param_shardings import param_shardings
from acdc_jax.models.transformer import FusedParams
from acdc_jax.params import Params

_SAMPLING = Sampling(temperature=0.7)  # the paper's
# Held at once: the model as stored, with fused weights, the one before, and the cache.
_MODELS_AT_ONCE = 4


def member_models(
    plan: Plan,
    model: ModelConfig,
    groups: DeviceGroups,
    params_of: Callable[[str], Params],
    text: TextFormat,
    batch_size: int,
    key: jax.Array,
) -> Iterator[HarnessModel]:
    """Yield every model of a plan; params are read when it is the model's turn.

    Args:
        plan: The models.
        model: Architecture of the members.
        groups: Device groups; each gets a copy of the params.
        params_of: Returns the params of a member, on any devices.
        text: Tokenizer and stop tokens of the members.
        batch_size: Largest number of sequences that a group decodes at once.
        key: Typed PRNG key of all samples.
    """
    loaded, params = "", list[FusedParams]()
    for name in plan.models:
        sample = plan.samples.get(name)
        member = sample.member if sample else name
        if member != loaded:  # samples of one member use the same copies
            params = _fused_copies(params_of(member), model, groups)
            loaded = member
        yield HarnessModel(
            name,
            model,
            groups,
            params,
            text,
            batch_size,
            _SAMPLING if sample else None,
            _model_key(key, member, sample.number if sample else 0),
        )


def folder_model(
    folder: Path,
    batch_size: int,
    *,
    thinking: bool = False,
    think_end_token: str | None = None,
    prng_seed: int = 0,
) -> HarnessModel:
    """Load the model in a Hugging Face folder; its name is that of the folder.

    Args:
        folder: The folder.
        batch_size: Largest number of sequences that a group decodes at once.
        thinking: Whether chat templates that have the choice ask for thoughts first.
        prng_seed: Seed of all samples.

    Raises:
        AcdcError: It cannot be read.
    """
    model = hf.read_config(folder)
    groups = model_groups(model)
    shardings = param_shardings(groups.local[0].mesh, model, population=False)
    params = _fused_copies(hf.load_weights(folder, model, shardings), model, groups)
    text = text_format([folder], thinking=thinking, think_end_token=think_end_token)
    name = folder_name(folder)
    key = _model_key(jax.random.key(prng_seed), name, 0)
    return HarnessModel(name, model, groups, params, text, batch_size, key=key)


def folder_name(folder: Path) -> str:
    """Return the name of the model in a folder; it can also name a file."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", str(folder.resolve())).strip("_")


def model_groups(model: ModelConfig) -> DeviceGroups:
    """Return as many device groups of this process as memory allows."""
    return DeviceGroups.for_model(model, _MODELS_AT_ONCE)


def text_format(
    folders: Sequence[Path], *, thinking: bool = False, think_end_token: str | None = None
) -> TextFormat:
    """Return the first folder's tokenizer, with the stop tokens of all folders."""
    tokenizers = [tokenizer.load_tokenizer(folder) for folder in folders]
    stops = map(tokenizer.stop_tokens, folders, tokenizers)
    stop_tokens = tuple(sorted({token for tokens in stops for token in tokens}))
    return TextFormat(tokenizers[0], stop_tokens, thinking, think_end_token)


def _model_key(key: jax.Array, model: str, number: int) -> jax.Array:
    """Return the PRNG key of a sample of a model.

    Models must not share draws: their errors would be alike, and their Coverage too small.
    """
    return jax.random.fold_in(jax.random.fold_in(key, stable_number(model)), number)


def _fused_copies(params: Params, model: ModelConfig, groups: DeviceGroups) -> list[FusedParams]:
    """Return a copy of a model with fused weights on each group."""
    return [fuse_weights(model, copy) for copy in groups.copies(params, model)]
