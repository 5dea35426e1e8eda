"""A run's metrics while it runs: TensorBoard event files, and Weights & Biases."""

import contextlib
import importlib
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from acdc_jax import multihost
from acdc_jax.config import Config
from acdc_jax.errors import AcdcError, one_line
from acdc_jax.files import write_atomic
from acdc_jax.streams import print_line

Log = Callable[[int, Mapping[str, float]], None]


@contextlib.contextmanager
def open_log(config: Config, committed: int) -> Iterator[Log]:
    """Yield a function that sends the metrics of `metrics.jsonl` to TensorBoard and W&B.

    A log that fails is given up with a line: it must not end a run.

    Args:
        config: The run's settings; `--tensorboard` and `--wandb` turn the logs on.
        committed: The last committed generation; -1 in a new run.

    Raises:
        AcdcError: A package is missing, or W&B does not start.
    """
    with contextlib.ExitStack() as stack:
        logs: list[Log] = []
        if config.run.tensorboard and multihost.is_first():
            logs.append(stack.enter_context(_tensorboard(Path(config.run.run_dir), committed)))
        if config.run.wandb and multihost.is_first():
            logs.append(stack.enter_context(_wandb(config)))

        def log(generation: int, metrics: Mapping[str, float]) -> None:
            for write in logs.copy():
                try:
                    write(generation, metrics)
                except Exception as error:  # a full disk, a network: unrelated classes
                    logs.remove(write)
                    reason = one_line(error)
                    print_line(f"metrics are no longer logged: {reason}; metrics.jsonl has them")

        yield log


@contextlib.contextmanager
def _tensorboard(run_dir: Path, committed: int) -> Iterator[Log]:
    package = _package("tensorboardX", "--tensorboard")
    # A killed run may have logged a generation that was not committed; it is logged again.
    # Without a limit, a queue whose thread has met a full disk does not block the run.
    folder, unlimited = str(run_dir / "tensorboard"), 0
    writer = package.SummaryWriter(folder, purge_step=committed + 1, max_queue=unlimited)

    def log(generation: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, generation)
        writer.flush()

    try:
        yield log
    finally:
        with contextlib.suppress(OSError):
            writer.close()


@contextlib.contextmanager
def _wandb(config: Config) -> Iterator[Log]:
    package = _package("wandb", f"--wandb={config.run.wandb}")
    run_dir = Path(config.run.run_dir)
    # The same id continues the same curves when the run is resumed, wherever it was moved.
    identity = run_dir / "wandb_id.txt"
    if not identity.exists():
        write_atomic(identity, secrets.token_hex(8))
    try:
        run = package.init(
            project=config.run.wandb,
            id=identity.read_text(encoding="utf-8"),
            resume="allow",
            dir=str(run_dir),
            config=config.settings(),
        )
    except Exception as error:  # of account or network: unrelated classes
        reason = one_line(error)
        raise AcdcError(
            f"--wandb={config.run.wandb}: cannot start ({reason}); log in with `wandb login`, or "
            "leave the flag out"
        ) from error
    status = 1
    try:
        yield lambda generation, metrics: run.log(dict(metrics), step=generation)
        status = 0
    finally:
        with contextlib.suppress(Exception):  # the network, once more
            run.finish(exit_code=status)


def _package(name: str, flag: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise AcdcError(f"{flag} needs the package {name} ({error}): pip install {name}") from None
