"""Where a run's base and seeds come from, and under which licence: as far as they say it."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from acdc_jax.runtime.sources import Sources

UNKNOWN = "unknown"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclasses.dataclass(frozen=True)
class Origin:
    """A model that the run was given.

    Attributes:
        id: its member id; `base`.
        role: "base" or "seed".
        name: Hub id, or the name of its folder.
        hub_id: Hub id, where it was given by one; without the revision.
        licence: the Hub's word for it, from its model card or configuration; else `UNKNOWN`.
    """

    id: str
    role: str
    name: str
    hub_id: str
    licence: str


def origins(sources: Sources, flags: Mapping[str, Any]) -> list[Origin]:
    """The base, then the seeds.

    Args:
        sources: where they were found.
        flags: the run's, which say under which names they were asked for.
    """
    given = [name.strip() for name in flags["seed_models"].split(",")]
    # A registered set brings its own base.
    registered = "" if flags["base_model"] else f"{given.pop()} "
    asked = {"base": flags["base_model"]}
    asked |= dict(zip(sources.seeds, [name for name in given if name], strict=False))
    folders = {"base": sources.base, **sources.seeds}
    found = []
    for name, folder in folders.items():
        hub_id = _hub_id(asked.get(name, ""), folder)
        shown = hub_id or f"{registered}{Path(folder).name}"
        role = "base" if name == "base" else "seed"
        found.append(Origin(name, role, shown, hub_id, licence_of(Path(folder))))
    return found


def _hub_id(asked: str, folder: str) -> str:
    """The Hub id that a model was asked for by; a folder of that name went first."""
    name = asked.partition("@")[0]
    is_folder = Path(asked).expanduser().resolve() == Path(folder)
    return name if _HUB_ID.fullmatch(name) and not is_folder else ""


def licence_of(folder: Path) -> str:
    """What a model's card, or its configuration, says."""
    from huggingface_hub import ModelCard

    try:
        said = ModelCard.load(folder / "README.md").data.to_dict().get("license")
    except Exception:  # the file system's, the library's and its YAML parser's, unrelated classes
        said = None
    if not said:
        try:
            fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            said = fields.get("license")
        except (OSError, ValueError, AttributeError):
            said = None
    return said if isinstance(said, str) and said else UNKNOWN


def joint_licence(models: Sequence[Origin]) -> tuple[str, str]:
    """What a merge of models may call its licence in a card's header, and a note about it."""
    stated = list(dict.fromkeys(model.licence for model in models))
    if stated == [UNKNOWN]:
        return UNKNOWN, (
            "Neither the base nor the seeds state one where the run found them: it is unknown. Ask "
            "whoever made them before you pass this model on."
        )
    if len(stated) == 1:
        return stated[0], "The base and all seeds state the same one; so does this card."
    return "other", (
        "A merge contains all of the models above, so that the terms of each apply"
        f"{'; those of some are unknown' if UNKNOWN in stated else ''}. Read them before you pass "
        "this model on."
    )
