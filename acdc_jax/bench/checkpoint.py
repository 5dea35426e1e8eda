"""`acdc bench checkpoint`: Hugging Face folders and members in and out, beside disk and link.

Random weights are written into a fresh folder and read back, cold and warm; every bit must come
back.
"""

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from acdc_jax import flags
from acdc_jax.bench import host
from acdc_jax.bench.limits import SHAPES, link_rates
from acdc_jax.bench.table import show
from acdc_jax.bench.weights import ModelBench, random_weights, size_bytes
from acdc_jax.errors import AcdcError
from acdc_jax.evolution.content_hash import content_hash
from acdc_jax.models import hf
from acdc_jax.options import option
from acdc_jax.params import Params
from acdc_jax.runtime.breed import seed_recipe
from acdc_jax.runtime.member_files import HOST_MEMORY, load_member, save_member


@dataclasses.dataclass(frozen=True)
class CheckpointBench(ModelBench):
    """Checkpoints"""

    folder: str = option(tempfile.gettempdir(), "On the disk to use; a fresh folder in it.")


SECTIONS = (CheckpointBench,)


def main(argv: Sequence[str]) -> None:
    """Runs `acdc bench checkpoint`.

    Raises:
        AcdcError: Params came back changed, or the disk is full.
    """
    (bench,), rest = flags.parse(SECTIONS, argv)
    flags.no_arguments(rest)
    config = SHAPES[bench.shape]
    weights = random_weights(config, 0)
    size = size_bytes(weights)
    if shutil.disk_usage(bench.folder).free < 1.2 * size:
        raise AcdcError(f"--folder={bench.folder}: has no room for {size / 1e9:.1f} GB")
    recipe = seed_recipe("g000-m00", weights)
    wanted = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)
        for path, leaf in weights.items()
        for where in [leaf.sharding.with_memory_kind(HOST_MEMORY)]
    }
    there = {path: leaf.sharding for path, leaf in weights.items()}
    rows: list[tuple[str, str, str]] = []

    def row(what: str, run: Callable[[], Params | None]) -> None:
        """Measures a step; weights that it returns must be those that were written."""
        found: list[Params | None] = []
        took = host.seconds(lambda: found.append(jax.block_until_ready(run())))
        if found[0] is not None and content_hash(jax.device_put(found[0], there)) != recipe.content:
            raise AcdcError(f"{what}: weights came back changed")
        rows.append((what, f"{size / took / 1e9:.2f} GB/s", f"{took:.1f} s"))
        print(*rows[-1], sep="  ", flush=True)

    with tempfile.TemporaryDirectory(dir=bench.folder, prefix="acdc-checkpoint-") as name:
        folder = Path(name)
        written, read = host.disk_rates(folder, min(size, 2**32))
        down, up = link_rates(min(size, 2**30))
        source, out, member = folder / "source", folder / "out", folder / "g000-m00"
        source.mkdir()
        (source / "generation_config.json").write_text('{"eos_token_id": 0}')
        row("export a Hugging Face folder", lambda: hf.save(out, config, weights, source))
        host.forget(out)
        row("load it, cold", lambda: hf.load_weights(out, config))
        row("load it, warm", lambda: hf.load_weights(out, config))
        shutil.rmtree(out)
        row("save a member", lambda: save_member(member, weights, recipe))
        host.forget(member)
        row("read it into host memory, cold", lambda: load_member(member, wanted)[0])
        row("read it into host memory, warm", lambda: load_member(member, wanted)[0])
    limits = {
        "limit: disk, written and fsynced": written,
        "limit: disk, cold read": read,
        "limit: link, device to host": down,
        "limit: link, host to device": up,
    }
    rows += [(what, f"{rate / 1e9:.2f} GB/s", "") for what, rate in limits.items()]
    show(f"{bench.shape}, {size / 1e9:.2f} GB", ("what", "rate", "time"), rows)
    print(
        f"every bit came back; host memory: {host.resident(most=True) / 1e9:.2f} GB at most, pages "
        f"of mapped files included (VmHWM), {host.resident() / 1e9:.2f} GB now (VmRSS)"
    )
