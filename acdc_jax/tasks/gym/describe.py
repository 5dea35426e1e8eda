"""Say in words what a task of reasoning-gym asks, and how it differs from its parent.

All of it comes from the tasks' metadata; reasoning-gym need not be installed.
"""

from acdc_jax.tasks.gym.ideas import Idea, Part, recorded_idea
from acdc_jax.tasks.task import Draft


def families(draft: Draft) -> tuple[str, ...]:
    """Return the families that a task's questions are from; empty for a task of another kind."""
    return tuple(part.family.name for part in recorded_idea(draft.metadata) or ())


def steps(draft: Draft) -> int | None:
    """Return how many levels a task is above the lowest; None for a task of another kind."""
    idea = recorded_idea(draft.metadata)
    return None if idea is None else sum(sum(part.levels.values()) for part in idea)


def levels(draft: Draft) -> str:
    """Return e.g. `gcd (num_terms 1) and lcm`, with the levels above the lowest."""
    return " and ".join(map(_part_text, recorded_idea(draft.metadata) or ()))


def change(parent: Draft, child: Draft) -> str:
    """Return what a child changed, such as `num_terms 0 → 1`; "" if nothing is known of it."""
    before, after = recorded_idea(parent.metadata), recorded_idea(child.metadata)
    if before is None or after is None:
        return ""
    if _names(before) != _names(after):
        added = [part for part in after if part.family not in {other.family for other in before}]
        if len(after) > len(before) and added:
            return f"asked together with {' and '.join(map(_part_text, added))}"
        return f"{' and '.join(_names(before))} → {' and '.join(map(_part_text, after))}"
    moves = [
        f"{name} {old.levels.get(name, 0)} → {level}"
        for old, new in zip(before, after, strict=True)
        for name, level in new.levels.items()
        if level != old.levels.get(name, 0)
    ]
    return ", ".join(moves) or "other questions"


def _names(idea: Idea) -> list[str]:
    return [part.family.name for part in idea]


def _part_text(part: Part) -> str:
    raised = ", ".join(f"{name} {level}" for name, level in part.levels.items() if level)
    return f"{part.family.name} ({raised})" if raised else part.family.name
