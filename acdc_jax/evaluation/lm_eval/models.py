"""Members of a run, and other models, as models of lm-evaluation-harness."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax

from acdc_jax.errors import AcdcError, ConfigError
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
# Models that memory must have room for: one, whose weights are fused one by one, and as much again
# for the cache and the largest weight. The model before is gone by then; see `benchmark_models`.
_MODELS_AT_ONCE = 2


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

    No more than one model is in memory, if the caller drops each before it asks for the next.

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
            params = []  # free memory for the next member
            params = _fused_copies(lambda: params_of(member), model, groups)  # noqa: B023
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
    params = _fused_copies(lambda: hf.load_weights(folder, model, shardings), model, groups)
    text = text_format([folder], thinking=thinking, think_end_token=think_end_token)
    name = folder_name(folder)
    key = _model_key(jax.random.key(prng_seed), name, 0)
    return HarnessModel(name, model, groups, params, text, batch_size, key=key)


def check_folder_model(folder: Path, *, chat: bool) -> None:
    """Refuse a model that cannot be evaluated, before its weights are downloaded.

    Args:
        folder: The folder; its weights may be missing.
        chat: Whether questions are asked with its chat template.

    Raises:
        AcdcError: Its configuration or tokenizer cannot be read, or it has no chat template.
        ConfigError: All devices of this process together have too little memory.
    """
    try:
        model_groups(hf.declared_config(folder))
    except ConfigError as error:
        raise ConfigError(f"{folder}: {error}") from None
    if chat and not text_format([folder]).tokenizer.chat_template:
        raise AcdcError(
            f"{folder}: the tokenizer has no chat template; ask without one "
            "(--noapply_chat_template), or add chat_template.jinja to the folder"
        )


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


def _fused_copies(
    load: Callable[[], Params], model: ModelConfig, groups: DeviceGroups
) -> list[FusedParams]:
    """Return a copy of a model with fused weights on each group.

    Args:
        load: Loads the params, of which nobody else must keep a reference: each matrix is freed
            once it is fused, so that no more than one matrix is in memory twice.
        model: Architecture of the model.
        groups: Device groups.
    """
    copies = groups.copies(load(), model)
    return [fuse_weights(model, copy, donate=True) for copy in copies]
