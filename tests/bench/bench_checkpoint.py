"""Load and export rates of a checkpoint, beside what the disk and the link to the device reach.

    python tests/bench/bench_checkpoint.py DIR                # 0.4 GB, on a laptop
    python tests/bench/bench_checkpoint.py DIR --shape=7b     # 15.2 GB in bfloat16, one GPU

Writes random weights into DIR (which must not exist), reads them back cold and warm, checks that
every bit came back, and removes DIR. Peak host memory counts the pages of mapped files too, which
the kernel takes back when it needs them.
"""

import argparse
import dataclasses
import os
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from acdc_jax.bench import limits
from acdc_jax.model import hf
from acdc_jax.model.transformer import Weights, init_weights, shapes

QWEN25_7B = limits.SHAPES["qwen2.5-7b"]
SHAPES = {
    "7b": QWEN25_7B,
    "small": dataclasses.replace(
        QWEN25_7B, vocab_size=32_000, hidden_size=896, intermediate_size=4864, num_layers=10
    ),
}


def seconds(call: Callable[[], object]) -> float:
    """Wall time of a call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def drop_pages(folder: Path) -> None:
    """Makes the next read of a folder's files a cold one."""
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write_plain(path: Path, block: np.ndarray, times: int) -> None:
    """Writes a file of the given blocks and waits for the disk."""
    with path.open("wb", buffering=0) as file:
        for _ in range(times):
            file.write(block.data)
        os.fsync(file.fileno())


def read_plain(folder: Path, buffer: np.ndarray) -> None:
    """Reads every weight file, block by block, into the same memory."""
    for path in folder.glob("*.safetensors"):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer.data):
                pass


def link_rate(device: jax.Device, block: np.ndarray) -> float:
    """Bytes per second from ordinary host memory to a device."""
    jax.device_put(block, device).block_until_ready()
    return (
        4
        * block.nbytes
        / seconds(lambda: [jax.device_put(block, device).block_until_ready() for _ in range(4)])
    )


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    given = parser.parse_args()
    config, device = SHAPES[given.shape], jax.devices()[0]
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in shapes(config).values())
    block = np.random.default_rng(0).integers(0, 255, 2**28, np.uint8)
    given.folder.mkdir(parents=True)
    (given.folder / "source").mkdir()
    (given.folder / "source" / "generation_config.json").write_text('{"eos_token_id": 0}')

    def rate(what: str, wall: float) -> None:
        print(f"{what:<36} {size / wall / 1e9:6.2f} GB/s  {wall:7.2f} s", flush=True)

    try:
        weights = init_weights(config, jax.random.key(0))
        jax.block_until_ready(weights)
        print(f"{given.shape}: {size / 1e9:.2f} GB, {device.device_kind}, {os.cpu_count()} cores")
        times = -(-size // block.nbytes)
        wall = seconds(lambda: write_plain(given.folder / "plain", block, times))
        rate("disk: write and fsync", wall * size / (times * block.nbytes))
        (given.folder / "plain").unlink()
        out = given.folder / "out"
        for what in ("export, compilation included", "export"):
            shutil.rmtree(out, ignore_errors=True)
            rate(what, seconds(lambda: hf.save(out, config, weights, given.folder / "source")))
        drop_pages(out)
        rate("disk: cold read", seconds(lambda: read_plain(out, block)))
        rate("page cache: warm read", seconds(lambda: read_plain(out, block)))
        print(f"{'host → device':<36} {link_rate(device, block) / 1e9:6.2f} GB/s")
        loaded: list[Weights] = []
        for what in ("load, cold", "load, warm"):
            loaded.clear()
            if what == "load, cold":
                drop_pages(out)
            rate(what, seconds(lambda: loaded.append(hf.load_weights(out, config))))
        (again,) = loaded
        for path, leaf in weights.items():
            assert np.array_equal(
                np.asarray(leaf).view(np.uint16), np.asarray(again[path]).view(np.uint16)
            ), path
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(f"every bit came back; peak host memory {peak / 1e9:.1f} GB")
    finally:
        shutil.rmtree(given.folder)


if __name__ == "__main__":
    main()
