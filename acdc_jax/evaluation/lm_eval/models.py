"""Members of a run, and other models, as models of lm-evaluation-harness."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import jax

from acdc_jax.errors import AcdcError, ConfigError
from acdc_jax.evaluation.lm_eval.lm import HarnessModel, TextFormat
from acdc_jax.evaluation.lm_eval.plan import Plan, Variant
from acdc_jax.inference.device_groups import DeviceGroups
from acdc_jax.inference.sampling import Sampling, stable_number
from acdc_jax.models import hf, tokenizer
from acdc_jax.models.chat_template import encode_chat
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.fused_weights import fuse_weights
from acdc_jax.models.merge_compatibility import own_config
from acdc_jax.models.param_shardings import param_shardings
from acdc_jax.models.token_order import Order, reorder_tokenizer
from acdc_jax.models.transformer import FusedParams
from acdc_jax.params import Params

_SAMPLING = Sampling(temperature=0.7)  # the paper's
# Models that memory must have room for: one, whose weights are fused one by one, and as much again
# for the cache and the largest weight. The model before is gone by then; see `benchmark_models`.
_MODELS_AT_ONCE = 2


@dataclass(frozen=True)
class Configuration:
    """With what a model's params are computed.

    Attributes:
        model: Architecture.
        text: How it reads and writes text.
    """

    model: ModelConfig
    text: TextFormat


def member_models(
    plan: Plan,
    model: ModelConfig,
    groups: DeviceGroups,
    params_of: Callable[[str], Params],
    text: TextFormat,
    batch_size: int,
    key: jax.Array,
    own: Mapping[str, Configuration] = MappingProxyType({}),
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
        own: Seed → its own configuration, of those that the plan asks with it.
    """
    of_members, loaded, params = Configuration(model, text), "", list[FusedParams]()
    for name in plan.models:
        variant = plan.variant(name)
        if variant.member != loaded:  # samples of one member use the same copies
            params, loaded = [], variant.member  # free memory for the next member
            params = _fused_copies(lambda: params_of(loaded), model, groups)  # noqa: B023
        configuration = own[variant.member] if variant.own else of_members
        answers = HarnessModel(
            name, configuration.model, groups, params, configuration.text, batch_size
        )
        yield _draw(answers, variant, key)
        del answers  # its params


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
    text = text_format(folder, thinking=thinking, think_end_token=think_end_token)
    name = folder_name(folder)
    answers = HarnessModel(name, model, groups, params, text, batch_size)
    return _draw(answers, Variant(name), jax.random.key(prng_seed))


def with_samples(model: HarnessModel, plan: Plan, prng_seed: int) -> Iterator[HarnessModel]:
    """Yield all variants of a model in a plan, the model itself included.

    Args:
        model: From `folder_model`.
        plan: What is evaluated.
        prng_seed: Seed of all samples.
    """
    for name in plan.models:
        if (variant := plan.variant(name)).member == model.name:
            yield _draw(replace(model, name=name), variant, jax.random.key(prng_seed))


def own_configuration(
    folder: Path, model: ModelConfig, text: TextFormat, order: Order = ()
) -> Configuration:
    """Return a seed's own configuration.

    Args:
        folder: Folder of the seed.
        model: Architecture of the members, whose weights the seed's are adapted to.
        text: How members read and write text. A seed without a chat template gets theirs; one whose
            chat template cannot ask a question is asked as they are.
        order: The order in which the members have the rows of its embedding.

    Raises:
        AcdcError: It cannot be read.
    """
    own = text_format(folder, order, thinking=text.thinking, think_end_token=text.think_end_token)
    own.tokenizer.chat_template = own.tokenizer.chat_template or text.tokenizer.chat_template
    try:
        encode_chat(own.tokenizer, "")
    except AcdcError:
        own = text
    return Configuration(own_config(hf.read_config(folder), model), own)


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
    if chat and not text_format(folder).tokenizer.chat_template:
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
    folder: Path,
    order: Order = (),
    *,
    thinking: bool = False,
    think_end_token: str | None = None,
) -> TextFormat:
    """Return a folder's tokenizer and stop tokens, with the ids of the given order of tokens."""
    tok = reorder_tokenizer(tokenizer.load_tokenizer(folder), order)
    stop_tokens = tokenizer.stop_tokens(folder, tok, order)
    return TextFormat(tok, stop_tokens, thinking, think_end_token)


def _draw(model: HarnessModel, variant: Variant, key: jax.Array) -> HarnessModel:
    """Return a model with the sampling of a variant, and a key of its own.

    Models must not share draws: their errors would be alike, and their Coverage too small.
    """
    key = jax.random.fold_in(key, stable_number(variant.member))
    if variant.number is None:
        return replace(model, key=jax.random.fold_in(key, 0))
    return replace(model, sampling=_SAMPLING, key=jax.random.fold_in(key, variant.number))


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
