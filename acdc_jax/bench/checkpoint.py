"""`acdc bench checkpoint`: write and read Hugging Face folders and members.

Random weights are written into a new folder and read back, cold (from the disk) and warm (from the
page cache). Every bit must come back.
"""

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax

from acdc_jax import flags
from acdc_jax.bench import host
from acdc_jax.bench.limits import SHAPES, link_rates
from acdc_jax.bench.table import Figures
from acdc_jax.bench.weights import ModelBench, random_weights, size_bytes
from acdc_jax.errors import AcdcError
from acdc_jax.evolution.content_hash import content_hash
from acdc_jax.models import hf, hf_export
from acdc_jax.models.config import ModelConfig
from acdc_jax.options import option
from acdc_jax.params import Params
from acdc_jax.runtime.breed import member_id, seed_recipe
from acdc_jax.runtime.member_files import HOST_MEMORY, load_member, save_member


@dataclasses.dataclass(frozen=True)
class CheckpointBench(ModelBench):
    """Checkpoints"""

    folder: str = option(
        tempfile.gettempdir(),
        "Folder on the disk to measure; a temporary one is made in it.",
        path=True,
    )


SECTIONS = (CheckpointBench,)


def main(argv: Sequence[str]) -> None:
    """Run `acdc bench checkpoint`.

    Raises:
        AcdcError: Weights came back changed, or the disk has no room for them.
    """
    (bench,), rest = flags.parse(SECTIONS, argv)
    flags.no_arguments(rest)
    config = SHAPES[bench.shape]
    weights = random_weights(config, 0)
    size = size_bytes(weights)
    if (free := shutil.disk_usage(bench.folder).free) < 1.2 * size:
        raise AcdcError(
            f"--folder={bench.folder}: {free / 1e9:.1f} GB are free, but {1.2 * size / 1e9:.1f} "
            "are needed; name a folder on another disk"
        )
    figures = Figures("what", "rate", "time")
    with tempfile.TemporaryDirectory(dir=bench.folder, prefix="acdc-checkpoint-") as name:
        folder = Path(name)
        disk, link = host.disk_rates(folder, min(size, 2**32)), link_rates(min(size, 2**30))
        _measure(figures, folder, config, weights)
    for limit, rate in {
        "limit: disk, written and fsynced": disk.write,
        "limit: disk, cold read": disk.read,
        "limit: link, device to host": link.to_host,
        "limit: link, host to device": link.to_device,
    }.items():
        figures.add(limit, f"{rate / 1e9:.2f} GB/s", "")
    figures.show(f"{bench.shape}, {size / 1e9:.2f} GB")
    print(
        f"every bit came back; host memory, with the pages of mapped files: peak "
        f"{host.resident_bytes(peak=True) / 1e9:.2f} GB (VmHWM), now "
        f"{host.resident_bytes() / 1e9:.2f} GB (VmRSS)"
    )


def _measure(figures: Figures, folder: Path, config: ModelConfig, weights: Params) -> None:
    """Write weights to both formats, and read them back."""
    recipe = seed_recipe(member_id(0, 0), weights)
    shardings = {path: leaf.sharding for path, leaf in weights.items()}
    on_host = {
        path: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=leaf.sharding.with_memory_kind(HOST_MEMORY)
        )
        for path, leaf in weights.items()
    }

    def write(what: str, run: Callable[[], None]) -> None:
        add_row(what, host.seconds(run))

    def read(what: str, run: Callable[[], Params]) -> None:
        loaded: list[Params] = []
        add_row(what, host.seconds(lambda: loaded.append(jax.block_until_ready(run()))))
        if content_hash(jax.device_put(loaded[0], shardings)) != recipe.content:
            raise AcdcError(f"{what}: the weights came back changed")

    def add_row(what: str, seconds: float) -> None:
        figures.add(what, f"{size_bytes(weights) / seconds / 1e9:.2f} GB/s", f"{seconds:.1f} s")

    source, out, member = folder / "source", folder / "out", folder / recipe.id
    source.mkdir()
    (source / "generation_config.json").write_text('{"eos_token_id": 0}')
    write("export a Hugging Face folder", partial(hf_export.save, out, config, weights, source))
    host.drop_cached_pages(out)
    for state in ("cold", "warm"):
        read(f"load it, {state}", partial(hf.load_weights, out, config))
    shutil.rmtree(out)
    write("save a member", partial(save_member, member, weights, recipe))
    host.drop_cached_pages(member)
    for state in ("cold", "warm"):
        read(f"read it into host memory, {state}", lambda: load_member(member, on_host)[0])
