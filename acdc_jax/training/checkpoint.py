"""Save the state of training, so that a killed training goes on from there with the same bits."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from acdc_jax.errors import AcdcError, one_line
from acdc_jax.training.fit import TrainState

# What goes wrong is raised too; the rest is advice about other ways to save.
logging.getLogger("absl").addFilter(lambda record: "/orbax/checkpoint/" not in record.pathname)


class Saved(NamedTuple):
    """What belongs to a state.

    Attributes:
        step: Steps taken.
        experts: Names of the experts, in the order of the state's first axis.
        losses: Of every step, one for each expert.
    """

    step: int
    experts: list[str]
    losses: list[list[float]]


@contextlib.contextmanager
def open_checkpoints(folder: Path) -> Iterator[Any]:
    """Yield orbax's manager of the states in a folder, of which it keeps the last.

    A state is there completely or not at all.
    """
    options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
    with ocp.CheckpointManager(folder.absolute(), options=options) as manager:
        yield manager


def save_state(manager: Any, saved: Saved, state: TrainState) -> None:
    """Replace the state in the manager's folder.

    Raises:
        AcdcError: It cannot be written.
    """
    about = {"experts": saved.experts, "losses": saved.losses}
    args = ocp.args.Composite(
        state=ocp.args.StandardSave(state._asdict()), about=ocp.args.JsonSave(about)
    )
    try:
        manager.save(saved.step, args=args, force=True)
        manager.wait_until_finished()
    except (OSError, ValueError, jax.errors.JaxRuntimeError) as error:
        raise AcdcError(f"{manager.directory}: cannot be written ({one_line(error)})") from error


def last_saved(manager: Any) -> Saved | None:
    """Return what belongs to the state in the manager's folder; None if there is none."""
    step = manager.latest_step()
    if step is None:
        return None
    about = _read(manager, step, about=ocp.args.JsonRestore()).about
    return Saved(step, list(about["experts"]), [list(row) for row in about["losses"]])


def restore_state(manager: Any, saved: Saved, like: TrainState) -> TrainState:
    """Return the state in the manager's folder.

    Args:
        manager: From `open_checkpoints`.
        saved: From `last_saved`.
        like: Shapes, dtypes and shardings.

    Raises:
        AcdcError: It is damaged, or of other shapes.
    """
    args = ocp.args.StandardRestore(like._asdict())
    return TrainState(**_read(manager, saved.step, state=args).state)


def _read(manager: Any, step: int, **parts: Any) -> Any:
    try:
        return manager.restore(step, args=ocp.args.Composite(**parts))
    except Exception as error:  # orbax raises nothing more special where a disk fails
        raise AcdcError(
            f"{manager.directory}: the state of training cannot be read ({one_line(error)}); "
            "remove this folder to train from the beginning"
        ) from error
