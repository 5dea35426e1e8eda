"""Find the objects that flags name, through Python entry points.

A package registers a name in its `pyproject.toml`. It is imported only when a run asks for it:

    [project.entry-points."acdc_jax.held_out"]
    my_exam = "my_package.tasks:my_exam"

Each group has one type:

`acdc_jax.seed_models` (`--seed_models`)
    A `runtime.seed_models.SeedSet`: the architecture and the number of the seeds, and a function
    that returns the Hugging Face folders of the base and of the seeds, and makes them if they are
    not there yet.
`acdc_jax.scientists` (`--scientist`)
    `(options, prng_seed: int, tasks) -> Scientist`. Return what writes tasks and recognises
    gibberish, a subclass of `tasks.scientist.Scientist`. `options` holds the scientist's flags
    (`tasks.options.ScientistOptions`), and `tasks` those of the task pool (`TaskPoolOptions`). Task
    code may ask a scientist that is also a `tasks.scientist.Grader` to judge answers.
`acdc_jax.seed_families` (`--seed_families`) and `acdc_jax.held_out` (`--held_out`)
    `(prng_seed: int, options) -> Sequence[Draft]`. Return task families (`tasks.task.Draft`), the
    same ones in the same order for the same PRNG seed and the same `options`
    (`tasks.options.TaskPoolOptions`). `tasks.task_sets.TaskSet` is the type.
"""

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from acdc_jax.errors import ConfigError

SEED_MODELS = "acdc_jax.seed_models"
SCIENTISTS = "acdc_jax.scientists"
SEED_FAMILIES = "acdc_jax.seed_families"
HELD_OUT = "acdc_jax.held_out"


def is_registered(group: str, name: str) -> bool:
    """Return whether a group has a name, without importing anything."""
    return name in _entries(group)


def registered_names(group: str) -> list[str]:
    """Return the names of a group in alphabetical order, without importing anything."""
    return sorted(_entries(group))


def load(group: str, name: str) -> Any:
    """Import a registered object.

    Args:
        group: One of the groups above.
        name: A registered name.

    Returns:
        The object that its package registered.

    Raises:
        ConfigError: The name is not registered, or its package cannot be imported.
    """
    entries = _entries(group)
    if name not in entries:
        raise ConfigError(f"{group} has no {name!r}; {describe_names(group)}")
    try:
        return entries[name].load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{group}: {name!r} is registered as {entries[name].value}, which cannot be imported "
            f"({error}); reinstall its package"
        ) from None


def describe_names(group: str) -> str:
    """Return the end of an error message: the names that a group has."""
    names = registered_names(group)
    if not names:
        return "no name is registered: install the package (pip install -e .)"
    return f"registered: {', '.join(names)}"


def _entries(group: str) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=group)}
