"""`experts.json` in the folder of experts: the flags and the data that they are trained with."""

import contextlib
import fcntl
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from acdc_jax import flags
from acdc_jax.errors import AcdcError, ConfigError
from acdc_jax.files import is_empty, write_atomic
from acdc_jax.options import options_of
from acdc_jax.training.data import ExpertData
from acdc_jax.training.options import ExpertOptions, TrainOptions

_FILE, _LOCK = "experts.json", ".lock"


def check_out(out: Path, settings: dict[str, str]) -> None:
    """Refuse a folder of something else, or of other experts, or one that cannot be written.

    Raises:
        ConfigError: Training began there with other flags; names one.
        AcdcError: It is not empty and holds no experts, or cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise AcdcError(f"--out={out}: is a file; name a folder")
    if (out / _FILE).exists():
        before = _read(out)["flags"]
        for flag, value in settings.items():
            if before.get(flag, value) != value:
                raise ConfigError(
                    f"--{flag}={value}: {out} was begun with --{flag}={before[flag]}; use that, or "
                    "name another --out"
                )
        return
    if out.exists() and not is_empty(out):
        raise AcdcError(f"--out={out}: is not empty, and holds no experts; name another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / _LOCK).touch()
    except OSError as error:
        raise AcdcError(f"--out={out}: cannot be written ({error.strerror or error})") from None


@contextlib.contextmanager
def lock_out(out: Path) -> Iterator[None]:
    """Hold a folder that `check_out` has checked: no two processes train there.

    Raises:
        AcdcError: Another process holds it.
    """
    with (out / _LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise AcdcError(
                f"--out={out}: another process trains there; wait, or name another folder"
            ) from None
        yield


def check_data(out: Path, data: Sequence[ExpertData]) -> None:
    """Raise AcdcError if training began with other data."""
    if not (out / _FILE).exists():
        return
    before = _read(out)["data"]
    for expert in data:
        if before.get(expert.name) != expert.digest():
            raise AcdcError(
                f"{out}: the data of {expert.name} differs from what training began with; restore "
                "it, or name another --out"
            )


def write_record(out: Path, settings: dict[str, str], data: Sequence[ExpertData]) -> None:
    """Write the record, unless it is there."""
    if not (out / _FILE).exists():
        record = {"flags": settings, "data": {expert.name: expert.digest() for expert in data}}
        write_atomic(out / _FILE, json.dumps(record, indent=1))


def settings_of(experts: ExpertOptions, training: TrainOptions) -> dict[str, str]:
    """Return flag → value, as written, of all flags that decide what the experts are."""
    return {
        option.name: flags.write(getattr(options, option.name))
        for options in (experts, training)
        for option in options_of(type(options))
        if not option.resumable and option.name != "out"
    }


def _read(out: Path) -> dict[str, Any]:
    try:
        record = json.loads((out / _FILE).read_text(encoding="utf-8"))
        return {"flags": dict(record["flags"]), "data": dict(record["data"])}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise AcdcError(
            f"{out / _FILE}: cannot be read ({error}); remove {out}, or name another --out"
        ) from None
