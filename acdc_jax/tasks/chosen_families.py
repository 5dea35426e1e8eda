"""Check the task families that a person chose for a run, and tell all their faults at once."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

from acdc_jax.errors import AcdcError, ConfigError, attempt, raise_all
from acdc_jax.sandbox import Sandbox
from acdc_jax.tasks.task import CheckedDraft, Draft, Rejection
from acdc_jax.tasks.validate import check_drafts, prompt_flaw

FamilyKey = tuple[str, str]
"""Name and source of a family."""

CheckedFamilies = Mapping[FamilyKey, CheckedDraft]


@dataclasses.dataclass(frozen=True)
class PromptRoom:
    """How long prompts may be.

    Attributes:
        encode: Returns the tokens of a member's prompt for given instructions.
        longest: Longest prompt that leaves the members room for a response, in tokens.
    """

    encode: Callable[[str], Sequence[int]]
    longest: int


def family_key(draft: Draft) -> FamilyKey:
    """Return the key of a family."""
    return draft.name, draft.source


def check_chosen(
    families: Iterable[tuple[str, Draft]], sandbox: Sandbox, skill_threshold: float
) -> dict[FamilyKey, CheckedDraft]:
    """Check families as seed families are checked; see `check_draft`.

    Args:
        families: What each is for, such as "held-out task", and the draft.
        sandbox: Where they run.
        skill_threshold: Score from which a submission passes.

    Raises:
        AcdcError: Some are not valid; names each of them.
    """
    chosen = list(families)
    verdicts = check_drafts([draft for _, draft in chosen], sandbox, skill_threshold, trusted=True)
    checked, faults = {}, list[AcdcError]()
    for (purpose, draft), verdict in zip(chosen, verdicts, strict=True):
        if isinstance(verdict, Rejection):
            faults.append(AcdcError(f"{purpose} {draft.name} is not valid: {verdict.reason}"))
        else:
            checked[family_key(draft)] = verdict
    raise_all(faults)
    return checked


def check_rooms(
    families: Iterable[tuple[str, Draft]], checked: CheckedFamilies, room: PromptRoom
) -> None:
    """Refuse families whose prompts leave members no room for a response.

    Args:
        families: What each is for, and the draft.
        checked: From `check_chosen`; others are left out.
        room: How long prompts may be.

    Raises:
        ConfigError: There are some, or instructions spell a special token; names each of them.
    """
    faults = list[AcdcError]()
    for purpose, draft in families:
        if (family := checked.get(family_key(draft))) is not None:
            attempt(faults, _check_room, f"{purpose} {draft.name}", family, room)
    raise_all(faults)


def _check_room(name: str, family: CheckedDraft, room: PromptRoom) -> None:
    try:
        flaw = prompt_flaw(family.instructions.values(), room.encode, room.longest)
    except AcdcError as error:
        raise ConfigError(f"{name}: {error}") from None
    if flaw:
        raise ConfigError(
            f"{name}: its {flaw}; shorten or remove it, or lower --max_new_tokens in a new run"
        )
