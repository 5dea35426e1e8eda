"""Plan the training of experts: refuse what does not fit together, before weights are loaded."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from acdc_jax.errors import ConfigError
from acdc_jax.models import hf
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.find_model import find_model
from acdc_jax.params import path_hashes
from acdc_jax.sharding import make_mesh
from acdc_jax.training.batches import Room, find_room, predicted, row_order
from acdc_jax.training.data import ExpertData, load_data
from acdc_jax.training.memory import plan_memory
from acdc_jax.training.options import ExpertOptions, TrainOptions
from acdc_jax.training.record import check_data, check_out, settings_of
from acdc_jax.training.write import check_adapter_base


@dataclasses.dataclass(frozen=True)
class ExpertsPlan:
    """Options, data and devices that fit together.

    Attributes:
        experts: From which base, on what.
        training: How.
        base: Folder of the base.
        config: Its architecture, in the dtype to compute with and to write.
        template: Chat template instead of the base's, or None.
        data: Of every expert.
        orders: Of every expert: rows of every step, [steps, rows].
        room: For every step of every expert.
        mesh: Devices.
        at_once: Experts that a group of devices holds.
        recompute: Whether a gradient computes each layer again.
    """

    experts: ExpertOptions
    training: TrainOptions
    base: Path
    config: ModelConfig
    template: str | None
    data: Sequence[ExpertData]
    orders: Mapping[str, np.ndarray]
    room: Room
    mesh: Mesh
    at_once: int
    recompute: bool

    @property
    def out(self) -> Path:
        """Folder of the experts' folders."""
        return Path(self.experts.out or "")

    def folder(self, name: str) -> Path:
        """Return an expert's folder."""
        return self.out / name


def plan_experts(
    experts: ExpertOptions, training: TrainOptions, tell: Callable[[str], None]
) -> ExpertsPlan:
    """Return the plan, after all checks that need no weights.

    Args:
        experts: From which base, on what.
        training: How.
        tell: Called with a line about each expert's data.

    Raises:
        ConfigError: A flag is missing or does not fit; names it.
        AcdcError: The base or the data cannot be read, `out` is in use or cannot be written, or
            memory does not suffice.
    """
    if experts.base_model is None:
        raise ConfigError("--base_model is missing: name the model that training starts from")
    if experts.out is None:
        raise ConfigError("--out is missing: name the folder to write")
    out = Path(experts.out)
    check_out(out, settings_of(experts, training))
    template = _read_template(experts.chat_template)
    base = find_model(experts.base_model)
    config = hf.read_config(base)
    if training.length > config.max_positions:
        raise ConfigError(
            f"--length={training.length}: the base's window is {config.max_positions} tokens; "
            "lower it"
        )
    config = dataclasses.replace(config, dtype=experts.dtype or config.dtype)
    if training.lora_rank is not None and not training.merge_adapters:
        check_adapter_base(base)
    data = []
    for expert in load_data(experts, training.seed, base, config, template, training.length):
        tell(_describe(expert, training))
        data.append(expert)
    orders = {expert.name: _order(expert, training) for expert in data}
    check_data(out, data)
    rooms = (find_room(expert.examples, orders[expert.name]) for expert in data)
    room = Room(*map(max, zip(*rooms, strict=True)))
    devices = jax.devices()
    mesh = None if training.mesh is None else _make_mesh(training.mesh, devices)
    memory = plan_memory(
        config,
        training.lora_rank,
        training.rows,
        training.length,
        room.answers,
        len(devices),
        None if mesh is None else mesh.shape.get("model", 1),
    )
    if mesh is None:
        groups = min(len(data), len(devices) // memory.shards)
        used = devices[: groups * memory.shards]
        mesh = make_mesh(f"pop:{groups},model:{memory.shards}", used)
    return ExpertsPlan(
        experts=experts,
        training=training,
        base=base,
        config=config,
        template=template,
        data=data,
        orders=orders,
        room=room,
        mesh=mesh,
        at_once=memory.at_once,
        recompute=memory.recompute,
    )


def _make_mesh(spec: str, devices: Sequence[jax.Device]) -> Mesh:
    """Return the mesh of a flag, which has the axis "pop" also if the flag does not name it."""
    mesh = make_mesh(spec, devices)
    return mesh if "pop" in mesh.shape else make_mesh(f"pop:1,{spec}", devices)


def _read_template(file: str | None) -> str | None:
    if file is None:
        return None
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"--chat_template={file}: {reason}") from None
    if not text.strip():
        raise ConfigError(f"--chat_template={file}: the file is empty")
    return text


def init_key(name: str, prng_seed: int) -> jax.Array:
    """Return the key of what is drawn before an expert's first step."""
    return jax.random.split(_key(name, prng_seed))[0]


def _key(name: str, prng_seed: int) -> jax.Array:
    """Return an expert's key, which does not depend on the other experts."""
    return jax.random.fold_in(jax.random.key(prng_seed), path_hashes([name])[0])


def _order(expert: ExpertData, training: TrainOptions) -> np.ndarray:
    """Return the rows of every step, [steps, rows]."""
    key = jax.random.split(_key(expert.name, training.seed))[1]
    numbers = row_order(key, len(expert.examples.tokens))
    count = training.steps * training.rows
    return np.fromiter(itertools.islice(numbers, count), np.int32, count).reshape(
        training.steps, training.rows
    )


def _describe(expert: ExpertData, training: TrainOptions) -> str:
    rows, length = expert.examples.tokens.shape
    filled = (expert.examples.segments > 0).mean()
    answers = predicted(expert.examples).sum() / max(1, (expert.examples.segments > 0).sum())
    epochs = training.steps * training.rows / rows
    text = (
        f"{expert.name}: {expert.conversations} conversations in {rows} rows of {length} tokens "
        f"({filled:.0%} filled, {answers:.0%} of that answers), each read {epochs:.1f} times"
    )
    if expert.too_long:
        text += f"; {expert.too_long} are longer than a row, and left out"
    return text
