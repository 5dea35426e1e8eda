"""Sets of task families, hand-written or generated: seed families and held-out families.

A set is a folder with one folder per family, or a name that a package registered (see
`acdc_jax.plugins`): what a task library, such as `gym`, offers for a PRNG seed and the flags. All
that the rest of the program sees of either is drafts: families with instances, instructions,
reference answers, and a score that runs in the sandbox.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

from acdc_jax import plugins
from acdc_jax.errors import AcdcError, ConfigError, attempt, raise_all
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
        ConfigError: There is no such set, it is empty, or a family is there twice; all faults.
    """
    sets, faults, owners = {}, list[AcdcError](), dict[tuple[str, str], str]()
    for name in names or ():
        sets[name] = attempt(faults, _load, plugins.HELD_OUT, name, prng_seed, options) or []
        known = []
        for draft in sets[name]:
            known += [draft] if (draft.name, draft.source) in owners else []
            owners.setdefault((draft.name, draft.source), name)
        if known:
            owner = owners[known[0].name, known[0].source]
            faults.append(
                ConfigError(
                    f"--held_out={name}: {_families(known)} in {owner} already; leave one of the "
                    "sets out, or remove what they share, so that each task counts once"
                )
            )
    raise_all(faults)
    return sets


def check_held_out(held_out: Mapping[str, Sequence[Draft]], run_families: Iterable[Draft]) -> None:
    """Refuse a held-out family with the name and source of one of the run's own families.

    Raises:
        ConfigError: There are some; the message has a line for each set.
    """
    keys = {(draft.name, draft.source) for draft in run_families}
    faults = list[AcdcError]()
    for name, drafts in held_out.items():
        if known := [draft for draft in drafts if (draft.name, draft.source) in keys]:
            faults.append(
                ConfigError(
                    f"--held_out={name}: {_families(known)} among the run's own tasks; remove "
                    f"{'them' if len(known) > 1 else 'it'} from the held-out set"
                )
            )
    raise_all(faults)


def _families(drafts: Sequence[Draft]) -> str:
    """Return the beginning of a sentence about families."""
    more = len(drafts) - 1
    return f"the family {drafts[0].name!r} {f'and {more} more are' if more else 'is'}"


def families_in(folder: Path) -> list[Draft]:
    """Read the families of a folder, in the order of their folders' names.

    Args:
        folder: Holds one folder per family, each with `task.py` and `task.json`.

    Returns:
        The drafts; an empty list if there is none.

    Raises:
        AcdcError: A `task.json` is missing or damaged; names each.
    """
    faults = list[AcdcError]()
    paths = sorted(folder.glob("*/task.py"))
    drafts = [attempt(faults, load_draft, path.parent) for path in paths]
    raise_all(faults)
    return [draft for draft in drafts if draft is not None]


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
        if not drafts:
            raise ConfigError(f"{name}: this registered set of {group} is empty")
    elif not (drafts := families_in(Path(name))):
        raise ConfigError(
            f"{name}: no task families there (each is a folder with task.py and task.json), and "
            f"{group} has no such name ({plugins.describe_names(group)})"
        )
    return drafts
