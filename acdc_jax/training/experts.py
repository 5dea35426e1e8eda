"""Train experts from a base, side by side, and write their folders.

As many experts train at once as memory holds. The state is saved now and then, and each expert is
written when it is trained, so that the same call goes on where an earlier one was interrupted.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from acdc_jax.errors import AcdcError
from acdc_jax.models import hf, hf_export
from acdc_jax.models.find_model import is_on_hub, lasting_name
from acdc_jax.models.param_shardings import param_shardings
from acdc_jax.models.text_files import MODEL_CARD
from acdc_jax.params import Params
from acdc_jax.training import method as methods
from acdc_jax.training.batches import Batch, make_batch
from acdc_jax.training.checkpoint import (
    Saved,
    last_saved,
    open_checkpoints,
    restore_state,
    save_state,
)
from acdc_jax.training.data import ExpertData
from acdc_jax.training.fit import (
    TrainState,
    init_states,
    state_shardings,
    steps_per_call,
    train_side_by_side,
)
from acdc_jax.training.method import Method
from acdc_jax.training.optimizer import adamw
from acdc_jax.training.options import TrainOptions
from acdc_jax.training.plan import ExpertsPlan, init_key
from acdc_jax.training.record import lock_out, settings_of, write_record
from acdc_jax.training.write import model_card, write_adapter

_STATE = ".state"
_LAST_STEPS = 10  # whose mean loss is told
_LONGEST_LABEL = 40


class Progress(Protocol):
    """Shows how much of a step is done."""

    def __call__(self, step: str, done: int, total: int, note: str = "") -> None:
        """Show that `done` of `total` is done."""


def train_experts(plan: ExpertsPlan, progress: Progress, tell: Callable[[str], None]) -> list[Path]:
    """Train the experts that are not written yet, and write them.

    Args:
        plan: From `plan_experts`.
        progress: Shows steps, loss and speed.
        tell: Called with a line about each expert that was written.

    Returns:
        The folders of all experts.

    Raises:
        AcdcError: Weights cannot be read, a loss is not finite, or a folder cannot be written.
    """
    with lock_out(plan.out):
        _train_all(plan, progress, tell)
    return [plan.folder(expert.name) for expert in plan.data]


def _train_all(plan: ExpertsPlan, progress: Progress, tell: Callable[[str], None]) -> None:
    """Train the experts that are not written yet, and write them."""
    shared: Params | None = None
    write_record(plan.out, settings_of(plan.experts, plan.training), plan.data)
    method = _method(plan)
    for names, saved in _rounds(plan):
        if shared is None or not method.keeps_base:
            shared = _load_base(plan)
        with open_checkpoints(plan.out / _STATE) as manager:
            state, saved = _start(plan, method, shared, manager, names, saved)
            if not method.keeps_base:
                shared = {}
            state, losses = _train_round(plan, method, shared, manager, state, saved, progress)
        for i, name in enumerate(dict.fromkeys(names)):
            if not plan.folder(name).exists():
                _write(plan, method, shared, name, _take(state.params, i), losses[:, i])
                tell(_describe_loss(plan.folder(name), losses[:, i]))
        shutil.rmtree(plan.out / _STATE)
        del state


def _method(plan: ExpertsPlan) -> Method:
    rank = plan.training.lora_rank
    if rank is None:
        return methods.full(plan.config, plan.mesh, recompute=plan.recompute)
    return methods.adapters(
        plan.config, plan.mesh, rank, plan.training.lora_scale, recompute=plan.recompute
    )


def _rounds(plan: ExpertsPlan) -> Iterator[tuple[list[str], Saved | None]]:
    """Yield the experts that train at once, and where they are if they have begun.

    The first names are distinct; the last one is repeated so that every group has as many.
    """
    remaining = [e.name for e in plan.data if not plan.folder(e.name).exists()]
    groups = plan.mesh.shape["pop"]
    with open_checkpoints(plan.out / _STATE) as manager:
        saved = last_saved(manager)
    if saved is None or not set(saved.experts) & set(remaining):
        shutil.rmtree(plan.out / _STATE)
    else:
        if len(saved.experts) % groups:
            raise AcdcError(
                f"{plan.out}: training began with other devices; use as many, or the same --mesh"
            )
        yield saved.experts, saved
        remaining = [name for name in remaining if name not in saved.experts]
    size = groups * min(plan.at_once, math.ceil(max(1, len(remaining)) / groups))
    for start in range(0, len(remaining), size):
        names = remaining[start : start + size]
        yield names + [names[-1]] * (-len(names) % groups), None


def _load_base(plan: ExpertsPlan) -> Params:
    shardings = param_shardings(plan.mesh, plan.config, population=False)
    return hf.load_weights(plan.base, plan.config, shardings)


def _optimizer(training: TrainOptions) -> Any:
    return adamw(
        training.learning_rate,
        training.warmup,
        training.steps,
        training.weight_decay,
        training.clip,
    )


def _start(
    plan: ExpertsPlan,
    method: Method,
    base: Params,
    manager: Any,
    names: list[str],
    saved: Saved | None,
) -> tuple[TrainState, Saved]:
    """Return the state before the first step, or the saved one."""
    keys = jnp.stack([init_key(name, plan.training.seed) for name in names])
    optimizer = _optimizer(plan.training)
    arguments = (method.init, base, optimizer, keys, method.shardings, plan.mesh)
    if saved is None:
        return init_states(*arguments), Saved(0, names, [])
    shapes = jax.eval_shape(lambda: init_states(*arguments))
    places = state_shardings(shapes, method.shardings, plan.mesh)
    like = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        places,
    )
    return restore_state(manager, saved, like), saved


def _train_round(
    plan: ExpertsPlan,
    method: Method,
    shared: Params,
    manager: Any,
    state: TrainState,
    saved: Saved,
    progress: Progress,
) -> tuple[TrainState, np.ndarray]:
    """Take the remaining steps.

    Returns:
        The state, and the losses, [steps, experts].
    """
    training, names = plan.training, saved.experts
    run = train_side_by_side(method.loss, _optimizer(training), plan.mesh)
    by_name = {expert.name: expert for expert in plan.data}
    experts = [by_name[name] for name in names]
    losses, meter = list(saved.losses), _Meter(progress, names, training.steps)
    meter.show(losses)
    waiting: tuple[jax.Array, int] | None = None  # the devices never wait for the host
    size = steps_per_call(training.steps)
    for step in range(saved.step, training.steps, size):
        batches, tokens = _batches(plan, experts, slice(step, step + size))
        state, step_losses = run(state, shared, batches)
        if waiting is not None:
            meter.add(losses, *waiting)
        waiting, done = (step_losses, tokens), step + size
        save = done // training.save_every > step // training.save_every
        if save or done == training.steps:
            meter.add(losses, *waiting)
            waiting = None
            if done < training.steps:
                save_state(manager, Saved(done, names, losses), state)
    return state, np.array(losses)


class _Meter:
    """Collects losses, and shows them with the speed.

    Args:
        progress: Shows it.
        names: Of the experts.
        steps: All steps.
    """

    def __init__(self, progress: Progress, names: Sequence[str], steps: int) -> None:
        self._progress, self._names, self._steps = progress, names, steps
        self._label = _shorten(f"training {', '.join(dict.fromkeys(names))}")
        self._tokens, self._began = 0, 0.0

    def add(self, losses: list[list[float]], values: jax.Array, tokens: int) -> None:
        """Wait for steps, and append their losses.

        Args:
            losses: Of the steps before.
            values: [experts, steps].
            tokens: Of all experts in these steps.

        Raises:
            AcdcError: A loss is not finite.
        """
        for row in np.asarray(values).T.tolist():
            losses.append(row)
            for name, loss in zip(self._names, row, strict=True):
                if not math.isfinite(loss):
                    raise AcdcError(
                        f"expert {name}: the loss of step {len(losses)} is not finite; lower "
                        "--learning_rate, or raise --warmup"
                    )
        if self._began:
            self._tokens += tokens
        else:  # the first steps, which compile, are over
            self._began = time.monotonic()
        self.show(losses)

    def show(self, losses: list[list[float]]) -> None:
        """Show the last step."""
        speed = self._tokens / (time.monotonic() - self._began) if self._tokens else 0.0
        rate = f"{speed:,.0f} tokens/s" if speed else "compiling"
        loss = f"loss {np.mean(losses[-1]):.3f}, " if losses else ""
        self._progress(self._label, len(losses), self._steps, f"{loss}{rate}")


def _shorten(text: str) -> str:
    return text if len(text) <= _LONGEST_LABEL else f"{text[: _LONGEST_LABEL - 1]}…"


def _batches(plan: ExpertsPlan, experts: Sequence[ExpertData], steps: slice) -> tuple[Batch, int]:
    """Return steps of several experts, leaves [experts, steps, …], and their tokens."""
    orders = [plan.orders[expert.name][steps] for expert in experts]
    ids = plan.config.vocab_size
    batches = [
        make_batch(expert.examples, rows, plan.room, ids)
        for expert, rows in zip(experts, orders, strict=True)
    ]
    batch: Batch = jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
    tokens = sum(
        int((expert.examples.segments[rows] > 0).sum())
        for expert, rows in zip(experts, orders, strict=True)
    )
    return jax.device_put(batch, NamedSharding(plan.mesh, PartitionSpec("pop"))), tokens


@jax.jit
def _take(params: Params, i: int) -> Params:
    """Return one expert's leaves."""
    return {path: jax.lax.dynamic_index_in_dim(x, i, keepdims=False) for path, x in params.items()}


def _write(
    plan: ExpertsPlan,
    method: Method,
    shared: Params,
    name: str,
    params: Params,
    losses: np.ndarray,
) -> None:
    """Write one expert's folder."""
    (data,) = (expert for expert in plan.data if expert.name == name)
    first, last = (float(part.mean()) for part in (losses[:_LAST_STEPS], losses[-_LAST_STEPS:]))
    settings = settings_of(plan.experts, plan.training)
    card = model_card(data, plan.base, plan.experts, plan.training, (first, last), settings)
    folder, training = plan.folder(name), plan.training
    if training.lora_rank is not None and not training.merge_adapters:
        base = plan.experts.base_model or ""
        base = base if is_on_hub(base) else lasting_name(base)
        write_adapter(folder, plan.config, params, training, base, card)
        return
    texts = {MODEL_CARD: card}
    if plan.template is not None:
        texts["chat_template.jinja"] = plan.template
    hf_export.save(folder, plan.config, method.weights(shared, params), plan.base, texts=texts)


def _describe_loss(folder: Path, losses: np.ndarray) -> str:
    first, last = losses[:_LAST_STEPS].mean(), losses[-_LAST_STEPS:].mean()
    return f"{folder} written: loss {first:.3f} → {last:.3f}"
