"""Find where a run's base and seeds come from, and under which licence."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from acdc_jax.errors import AcdcError
from acdc_jax.models import hub
from acdc_jax.models.find_model import find_model, split_name
from acdc_jax.models.gguf.folder import SUFFIX
from acdc_jax.models.model_card import UNKNOWN, licence_of
from acdc_jax.run_options import SeedOptions
from acdc_jax.runtime.sources import Sources


@dataclasses.dataclass(frozen=True)
class Origin:
    """A model that the run started from.

    Attributes:
        id: Its member id, or "base".
        role: "base", "seed", or "adapter" of the model before.
        name: Hub id, or the name of its folder.
        hub_id: Hub id without the revision; "" if it was not named by one.
        licence: The Hub's name of it, from the model card or configuration, or `UNKNOWN`.
    """

    id: str
    role: str
    name: str
    hub_id: str
    licence: str


def origins(sources: Sources, options: SeedOptions) -> list[Origin]:
    """Return the base, then the seeds; after a model that has an adapter, the adapter.

    Args:
        sources: Their folders.
        options: Their names.
    """
    names = {"base": options.base_model or ""}
    if options.base_model:
        names |= dict(zip(sources.seeds, options.seed_models, strict=True))
    # A registered set has its own base, and one name for all of its models.
    set_name = "" if options.base_model else f"{options.seed_models[0]} "
    models = []
    for member, place in {"base": sources.base, **sources.seeds}.items():
        role, flag = "base" if member == "base" else "seed", names.get(member, "")
        parts = [(role, place, flag)]
        if pair := split_name(place):
            # An adapter alone is applied to the base.
            base, adapter = split_name(flag) or (options.base_model or "", flag)
            parts = [(role, pair.base, base), ("adapter", pair.adapter, adapter)]
        for role, folder, flag in parts:
            hub_id = _hub_id(flag, folder)
            name = hub_id or f"{set_name}{Path(folder).name}"
            models.append(Origin(member, role, name, hub_id, _licence(folder)))
    return models


def _licence(name: str) -> str:
    """Return the licence of a model: of its folder, or of what its GGUF file says."""
    try:
        return licence_of(find_model(name) if name.endswith(SUFFIX) else Path(name))
    except AcdcError:  # the file is gone
        return UNKNOWN


def _hub_id(model: str, folder: str) -> str:
    """Return the Hub id in a flag's value; "" if it names a folder."""
    name = model.partition("@")[0]
    is_folder = Path(model).expanduser().resolve() == Path(folder)
    return name if hub.is_id(name) and not is_folder else ""


def joint_licence(models: Sequence[Origin]) -> tuple[str, str]:
    """Return the licence of a merge of models for its card's header, and a note about it."""
    stated = list(dict.fromkeys(model.licence for model in models))
    if stated == [UNKNOWN]:
        return UNKNOWN, (
            "Neither the base nor the seeds state a licence. Ask their authors before you pass "
            "this model on."
        )
    if len(stated) == 1:
        return stated[0], "The base and all seeds have this licence, and so does this model."
    return "other", (
        "A merge contains all of the models above, so the terms of each apply"
        f"{'; those of some are unknown' if UNKNOWN in stated else ''}. Read them before you pass "
        "this model on."
    )
