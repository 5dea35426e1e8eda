"""Sets of task families, hand-written or generated: seed families and held-out families.

A set is a folder with one folder per family, or a name that a package registered (see
`acdc_jax.plugins`).
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

from acdc_jax import plugins
from acdc_jax.errors import ConfigError
from acdc_jax.tasks.options import TaskPoolOptions
from acdc_jax.tasks.task import Draft, load_draft

_DEFAULTS = TaskPoolOptions()


class TaskSet(Protocol):
    """A registered set of task families."""

    def __call__(self, prng_seed: int, options: TaskPoolOptions) -> Sequence[Draft]:
        """Return the families of a PRNG seed and of the task flags, always in the same order."""


def load_seed_families(
    name: str, prng_seed: int, options: TaskPoolOptions = _DEFAULTS
) -> list[Draft]:
    """Return the families that a run starts from.

    Args:
        name: A registered name, such as `general`, or a folder of families.
        prng_seed: The run's.
        options: The run's, of which registered sets may make use.

    Raises:
        ConfigError: There is no such set, or it is empty.
    """
    return _load(plugins.SEED_FAMILIES, name, prng_seed, options)


def load_held_out(
    names: Sequence[str] | None, prng_seed: int, options: TaskPoolOptions = _DEFAULTS
) -> dict[str, list[Draft]]:
    """Return the families that a run is measured on, and never trains or selects on, by set.

    Args:
        names: Registered names, or folders of families; None: no set.
        prng_seed: The run's.
        options: The run's, of which registered sets may make use.

    Raises:
        ConfigError: There is no such set, it is empty, or a family is there twice.
    """
    sets = {name: _load(plugins.HELD_OUT, name, prng_seed, options) for name in names or ()}
    owners: dict[tuple[str, str], str] = {}
    for name, drafts in sets.items():
        for draft in drafts:
            key = draft.name, draft.source
            if key in owners:
                raise ConfigError(
                    f"--held_out={name}: the family {draft.name!r} is in {owners[key]} already; "
                    "remove it from one of them, so that each task counts once"
                )
            owners[key] = name
    return sets


def check_held_out(held_out: Mapping[str, Sequence[Draft]], run_families: Iterable[Draft]) -> None:
    """Refuse a held-out family with the name and source of one of the run's own families.

    Raises:
        ConfigError: There is one; the message names it and its set.
    """
    keys = {(draft.name, draft.source) for draft in run_families}
    for name, drafts in held_out.items():
        for draft in drafts:
            if (draft.name, draft.source) in keys:
                raise ConfigError(
                    f"--held_out={name}: held-out family {draft.name!r} is among the run's own "
                    "tasks; remove it from the held-out set"
                )


def families_in(folder: Path) -> list[Draft]:
    """Read the families of a folder, in the order of their folders' names.

    Args:
        folder: Holds one folder per family, each with `task.py` and `task.json`.

    Returns:
        The drafts; an empty list if there is none.

    Raises:
        AcdcError: A `task.json` is missing or damaged.
    """
    return [load_draft(path.parent) for path in sorted(folder.glob("*/task.py"))]


def load_tasks(name: str | Path, prng_seed: int = 0) -> list[Draft]:
    """Return the task families of a registered set, such as `general`, or of a folder.

    Args:
        name: A name registered for `--seed_families`, or a folder with one folder per family.
        prng_seed: Of a registered set that is drawn at random.

    Raises:
        ValueError: There is none.
        AcdcError: A `task.json` is missing or damaged.
    """
    try:
        return load_seed_families(str(name), prng_seed)
    except ConfigError as error:
        raise ValueError(str(error)) from None


def general(prng_seed: int = 0, options: object = None) -> list[Draft]:
    """Return families on knowledge, mathematics, code, logic, language and creativity."""
    del prng_seed, options  # They are fixed.
    return families_in(Path(__file__).with_name("families") / "general")


def _load(group: str, name: str, prng_seed: int, options: TaskPoolOptions) -> list[Draft]:
    if plugins.is_registered(group, name):
        drafts = list(cast(TaskSet, plugins.load(group, name))(prng_seed, options))
    else:
        drafts = families_in(Path(name))
    if not drafts:
        raise ConfigError(
            f"{name}: no task families there (each is a folder with task.py and task.json), and "
            f"{group} has no such name ({plugins.describe_names(group)})"
        )
    return drafts
