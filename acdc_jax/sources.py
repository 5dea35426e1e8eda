"""`sources.json` of a run: where the base and the seeds are, so that members can be made again."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from acdc_jax.errors import AcdcError
from acdc_jax.evolve.children import member_id
from acdc_jax.evolve.content import content_hash
from acdc_jax.files import write_atomic
from acdc_jax.model.transformer import Weights
from acdc_jax.models import Folders

_NAME = "sources.json"


@dataclasses.dataclass(frozen=True)
class Sources:
    """The models that a run started from. What the seeds must contain is in their recipes.

    Attributes:
        base: absolute path of the base's folder.
        content: the base's `content_hash`.
        seeds: member id → absolute path of the seed's folder.
    """

    base: str
    content: str
    seeds: Mapping[str, str]


def keep_sources(run_dir: Path, folders: Folders, base: Weights, *, started: bool) -> None:
    """Writes `sources.json`; a run that has started goes on only with the base it had.

    Raises:
        AcdcError: the base is another one; the folders may have moved.
    """
    content = content_hash(base)
    if started and (had := read_sources(run_dir).content) != content:
        raise AcdcError(
            f"{folders.base}: is not the base that {run_dir} was started with (it hashes to "
            f"{content}, not {had}); put that back, or start a new run"
        )
    seeds = {member_id(0, i): str(folder.resolve()) for i, folder in enumerate(folders.seeds)}
    sources = Sources(str(folders.base.resolve()), content, seeds)
    write_atomic(run_dir / _NAME, json.dumps(dataclasses.asdict(sources), indent=1))


def read_sources(run_dir: Path) -> Sources:
    """Reads `sources.json`.

    Raises:
        AcdcError: it is missing or damaged.
    """
    path = run_dir / _NAME
    try:
        return Sources(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise AcdcError(f"{path}: is missing or damaged ({error})") from None
