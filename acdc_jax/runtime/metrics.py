"""A run's metrics while it runs: TensorBoard event files, and Weights & Biases."""

import contextlib
import importlib
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from acdc_jax import multihost
from acdc_jax.config import Config
from acdc_jax.errors import AcdcError
from acdc_jax.files import write_atomic

Log = Callable[[int, Mapping[str, float]], None]


@contextlib.contextmanager
def open_log(config: Config, committed: int) -> Iterator[Log]:
    """Yield a function that sends the metrics of `metrics.jsonl` to TensorBoard and W&B.

    Args:
        config: The run's settings; `--tensorboard` and `--wandb` turn the logs on.
        committed: The last committed generation; -1 in a new run.

    Raises:
        AcdcError: A package is missing.
    """
    with contextlib.ExitStack() as stack:
        logs: list[Log] = []
        if config.run.tensorboard and multihost.is_first():
            logs.append(stack.enter_context(_tensorboard(Path(config.run.run_dir), committed)))
        if config.run.wandb and multihost.is_first():
            logs.append(stack.enter_context(_wandb(config)))

        def log(generation: int, metrics: Mapping[str, float]) -> None:
            for write in logs:
                write(generation, metrics)

        yield log


@contextlib.contextmanager
def _tensorboard(run_dir: Path, committed: int) -> Iterator[Log]:
    package = _package("tensorboardX", "--tensorboard")
    # A killed run may have logged a generation that was not committed; it is logged again.
    writer = package.SummaryWriter(str(run_dir / "tensorboard"), purge_step=committed + 1)

    def log(generation: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, generation)
        writer.flush()

    with contextlib.closing(writer):
        yield log


@contextlib.contextmanager
def _wandb(config: Config) -> Iterator[Log]:
    package = _package("wandb", f"--wandb={config.run.wandb}")
    run_dir = Path(config.run.run_dir)
    # The same id continues the same curves when the run is resumed, wherever it was moved.
    identity = run_dir / "wandb_id.txt"
    if not identity.exists():
        write_atomic(identity, secrets.token_hex(8))
    run = package.init(
        project=config.run.wandb,
        id=identity.read_text(encoding="utf-8"),
        resume="allow",
        dir=str(run_dir),
        config=config.settings(),
    )
    try:
        yield lambda generation, metrics: run.log(dict(metrics), step=generation)
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()


def _package(name: str, flag: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise AcdcError(f"{flag} needs the package {name} ({error}): pip install {name}") from None
