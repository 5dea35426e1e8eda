"""Write model cards of exported members, and the README of an exported task force."""

import dataclasses
import json
import pprint
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from acdc_jax.evolution.coverage import coverage
from acdc_jax.evolution.recipe import Recipe
from acdc_jax.evolution.skills import MISSING, SOLVED, take
from acdc_jax.models.config import ModelConfig
from acdc_jax.report.provenance import Origin, joint_licence
from acdc_jax.report.tables import measured_on
from acdc_jax.report.truncation import run_truncation
from acdc_jax.runtime.run_reader import RunRecord

_TEMPLATES = Path(__file__).with_name("cards")
_FIRST_PORT = 8001


def model_card(
    run: RunRecord, recipe: Recipe, model: ModelConfig, models: Sequence[Origin], lineage: str
) -> str:
    """Return a member's README.md, with the header that the Hugging Face Hub reads.

    Args:
        run: The run.
        recipe: The member's recipe.
        model: Its architecture.
        models: The base, and the seeds that it descends from.
        lineage: Its family tree, as text.
    """
    from huggingface_hub import ModelCard, ModelCardData

    licence, note = joint_licence(models)
    ids = list(dict.fromkeys(origin.hub_id for origin in models if origin.hub_id))
    seed = recipe.merge is None
    header = ModelCardData(
        base_model=ids or None,
        base_model_relation="merge" if ids and not seed else None,
        library_name="transformers",
        license=licence,
        license_name="mixed" if licence == "other" else None,
        pipeline_tag="text-generation",
        tags=["acdc"] if seed else ["acdc", "merge", "evolutionary-merge"],
    )
    # The library renders it, so that the header is what the library reads.
    card = ModelCard.from_template(
        header,
        template_path=str(_TEMPLATES / "member.md.jinja"),
        member=recipe.id,
        seed=seed,
        making="" if recipe.merge is None else _making(recipe, recipe.merge.method),
        lineage=lineage.rstrip(),
        models=[dataclasses.asdict(origin) for origin in models],
        licence_note=note,
        recipe=json.dumps(recipe.to_json()),
        capabilities=capabilities(run, recipe.id),
        cut=_cut(run, recipe.id),
        messages=_messages(run),
        archived=recipe.id in run.manifest.archive,
        max_new_tokens=run.settings.decode.max_new_tokens,
        dtype=model.dtype,
        architecture=model.architecture,
    )
    return str(card)


def force_page(run: RunRecord, members: Sequence[str]) -> str:
    """Return the README.md beside a task force's folders: how to serve the models and ask them.

    Args:
        run: The run.
        members: Ids, in the order in which they were chosen.
    """
    rows = take(run.skills, members, run.skills.tasks).values == SOLVED
    before = np.zeros(rows.shape[1], bool)
    entries = []
    for i, (name, solved) in enumerate(zip(members, rows, strict=True)):
        adds = int((solved & ~before).sum())
        entries.append(
            {"id": name, "port": _FIRST_PORT + i, "fitness": float(solved.mean()), "adds": adds}
        )
        before |= solved
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True
    )
    return environment.get_template("force.md.jinja").render(
        members=entries,
        coverage=coverage(rows),
        measured=_measured_coverage(run, members),
        tasks=rows.shape[1],
        ports=pprint.pformat({entry["id"]: entry["port"] for entry in entries}, sort_dicts=False),
        messages=_messages(run),
        max_new_tokens=run.settings.decode.max_new_tokens,
    )


def _measured_coverage(run: RunRecord, members: Sequence[str]) -> str:
    """Return in words what the run's table says about a task force; "" if it says nothing."""
    results, n = run.results or {}, len(members)
    if results.get("task_force", {}).get(str(n)) != list(members):
        return ""
    texts = []
    for table in results["sets"]:
        (row,) = (row for row in table["rows"] if (row["collective"], row["n"]) == ("evolved", n))
        texts.append(f"{row['coverage']:.3f} {measured_on(table)}")
    return "; and ".join(texts)


def capabilities(run: RunRecord, member: str) -> list[tuple[str, int, float]]:
    """Return a member's (capability, tasks answered, share solved), the most tasks first."""
    (row,) = take(run.skills, [member], run.skills.tasks).values
    solved: dict[str, list[bool]] = {}
    for task, value in zip(run.skills.tasks, row, strict=True):
        if value != MISSING:
            solved.setdefault(run.tasks[task].draft.capability, []).append(bool(value == SOLVED))
    order = sorted(solved, key=lambda name: (-len(solved[name]), name))
    return [
        (_cell(name), len(solved[name]), sum(solved[name]) / len(solved[name])) for name in order
    ]


def _cell(text: str) -> str:
    """Return text that cannot leave its cell of a Markdown table; an LLM may have written it."""
    return " ".join(text.replace("|", "/").split())


def _cut(run: RunRecord, member: str) -> str:
    """Return in words how many of a member's responses reached the limit of tokens, or ""."""
    share = run_truncation(run, [member]).get(member)
    if share is None:
        return ""
    limit = run.settings.decode.max_new_tokens
    return f"{100 * share:.1f} % of its responses reached the run's limit of {limit} tokens."


def _making(recipe: Recipe, method: str) -> str:
    mutation = f", then a mutation ({recipe.mutation.kind})" if recipe.mutation else ""
    parents = f"{len(recipe.parents)} parents" if len(recipe.parents) > 1 else "one parent"
    return f"a {method} merge of {parents}{mutation}, in generation {recipe.generation}"


def _messages(run: RunRecord) -> str:
    """Return the Python source of a conversation, in the form in which the run asks questions."""
    system = run.settings.decode.system_prompt
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": "…"})
    return "[\n" + "".join(f"    {message!r},\n" for message in messages) + "]"
