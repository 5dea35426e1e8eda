"""`acdc export RUN MEMBER OUT`: write a member as a Hugging Face folder."""

import json
from collections.abc import Sequence
from pathlib import Path

import jax

from acdc_jax import checkpoint
from acdc_jax.errors import AcdcError, ConfigError
from acdc_jax.evolve.store import load_member
from acdc_jax.model import hf
from acdc_jax.model.config import ModelConfig
from acdc_jax.model.transformer import shapes

_HELP = """acdc export RUN MEMBER OUT: write a member of a run as a Hugging Face folder.

transformers' AutoModelForCausalLM and AutoTokenizer, and vLLM, load the folder as it is.
MEMBER is an id such as g012-m03; `acdc run` prints the task force, and RUN/results.json lists it.
"""


def command(argv: Sequence[str]) -> None:
    """Runs `acdc export`."""
    if "--help" in argv or "-h" in argv:
        print(_HELP, end="")
        return
    if len(argv) != 3:
        raise ConfigError("usage: acdc export RUN MEMBER OUT")
    run_dir, member, out = Path(argv[0]), argv[1], Path(argv[2])
    known = checkpoint.retained(checkpoint.read_manifest(run_dir))
    if member not in known:
        raise AcdcError(f"{run_dir} has no member {member!r}; it has {_some(known)}")
    model = read_model(run_dir)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here)
        for path, leaf in shapes(model).items()
    }
    weights, _ = load_member(run_dir / "members" / member, wanted)
    hf.save(out, model, weights, tokenizer_from=run_dir / "model")
    print(
        f"{out}: {member} written; load it with AutoModelForCausalLM.from_pretrained({str(out)!r})"
    )


def read_model(run_dir: Path) -> ModelConfig:
    """The architecture of a run's members.

    Raises:
        AcdcError: the run has no readable description of it.
    """
    path = run_dir / "model" / "acdc_model.json"
    try:
        return ModelConfig(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise AcdcError(f"{path}: is missing or damaged ({error})") from None


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[-8:])
    return shown if len(names) <= 8 else f"{len(names)} members, the latest {shown}"
