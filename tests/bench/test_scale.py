"""`acdc bench scale` at the tiny shape: every part, on fake devices."""

import contextlib
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from acdc_jax.bench.limits import SHAPES, copy_bandwidth, link_rates
from acdc_jax.bench.scale import command, disk, generation
from acdc_jax.bench.scale.operators import breeding_seconds
from acdc_jax.bench.scale.settings import DeviceRates, MeshSpec, ScaleBench
from acdc_jax.bench.scale.workload import as_text, mixed_workload
from acdc_jax.bench.weights import random_weights
from acdc_jax.commands.main import main
from acdc_jax.errors import ConfigError
from acdc_jax.inference.memory import weight_bytes
from acdc_jax.run_options import SandboxOptions
from acdc_jax.sandbox import Limits, Sandbox

pytestmark = pytest.mark.slow

# Prompts of one bucket, and one number of devices: few compilations.
_SMALL = (
    "--shape=tiny",
    "--parts=mixed,decode,store",
    "--devices=2,64",
    "--rank=8",
    "--children=2",
    "--archive=2",
    "--prompts=10",
    "--longest_prompt=8",
    "--longest_response=32",
    "--slots=4",
    "--batch=2",
    "--cache=64",
    "--members=2",
    "--host_budget_gb=1",
    "--sandbox_cpu_s=60",
)


@pytest.fixture(scope="module", autouse=True)
def small_arrays() -> Iterator[None]:
    """The machine's limits are measured with arrays of a megabyte."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "copy_bandwidth", partial(copy_bandwidth, 2**20))
        patch.setattr(command, "link_rates", partial(link_rates, 2**20))
        yield


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return what one run prints; its folder must be empty afterwards."""
    folder = tmp_path_factory.mktemp("scale")
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["bench", "scale", *_SMALL, f"--folder={folder}"]) == 0
    assert not list(folder.iterdir())
    return out.getvalue()


def test_parts_of_a_generation_add_up(printed: str) -> None:
    line = re.search(r"^generation, 2 children, 10 tasks  pop:1,model:2  ([\d.]+) s", printed, re.M)
    assert line is not None
    rows = re.findall(r"^  (\w[\w ]*)  pop:1,model:2  (-?[\d.]+) s", printed, re.M)
    parts = {part: float(value) for part, value in rows}
    assert {"breed", "decode", "scoring", "selection", "store"} <= parts.keys()
    assert sum(parts.values()) == pytest.approx(float(line[1]), abs=0.1)
    for part in ("decode", "breed"):
        assert parts[part] > 0


def test_scaling_is_over_one_device() -> None:
    """Speed-up is t₁ / tₙ, efficiency t₁ / (n tₙ)."""
    config = generation.run_config(ScaleBench(children=8), SandboxOptions(), Path("nowhere"))
    model, work = SHAPES["tiny"], mixed_workload(2, 70, 64, 100, 0)
    first, breed, _ = generation.figures(
        generation.Scenario(config, model, work),
        MeshSpec("pop:4", devices=4, groups=4),
        generation.Timing(5.0, {"breed": 1.0, "decode": 4.0}),
        16.0,
        DeviceRates(copy=2.0 * weight_bytes(model), link=1e9),
    )
    assert (first.value, first.scaling) == ("5.0 s", "3.20 ×, 80%")
    assert first.limit == f"{8 * work.tokens / 5:,.0f} tok/s written"
    assert breed.limit == "3.00 s: copy"  # two children of each group, three streams each


def test_children_are_made_on_a_mesh(printed: str) -> None:
    """Uses `printed` because its run compiled the programs."""
    config = generation.run_config(
        ScaleBench(children=2, rank=8, archive=2), SandboxOptions(), Path("nowhere")
    )
    assert breeding_seconds(config, SHAPES["tiny"], "model:2", 2, 2) > 0


def test_every_figure_has_a_line_and_a_row(printed: str) -> None:
    lines, table = printed.split("scaling at tiny")
    for what, meshes in {
        "decode B=2, cache 64": ("model:2",),
        "2 members read": ("one device",),
    }.items():
        for mesh in meshes:
            assert re.search(rf"^{what}.*  {mesh}  [\d.]+ ", lines, re.M), (what, mesh)
        assert table.count(what) == len(meshes)
    assert "functions compiled" in lines


def test_workload_is_scored_in_the_sandbox() -> None:
    """Each kind of family scores a response 0 or 1, and the same response equally."""
    work = mixed_workload(10, 70, 64, 100, 0)
    assert work.tokens == sum(work.response_lengths.values())
    assert max(map(len, work.prompts.values())) == 70
    answers = [as_text((n, 7, 9, 4, 5)) for n in range(4)]
    with Sandbox(1, Limits(cpu_s=60.0, memory_mb=512)) as box:
        for task in (work.tasks[0], work.tasks[6], work.tasks[8]):
            items = [(task.instances["1"], answer) for answer in answers]
            first, second = (box.score(task.draft.source, items).result() for _ in range(2))
            assert [outcome.status for outcome in first] == ["score"] * 4, first
            assert [outcome.score for outcome in first] == [outcome.score for outcome in second]
            assert {outcome.score for outcome in first} <= {0.0, 1.0}


def test_no_client_of_a_server_is_imported() -> None:
    check = (
        "import sys, acdc_jax.bench.scale; "
        "assert not {'openai', 'tenacity'} & sys.modules.keys(), 'imported'"
    )
    subprocess.run([sys.executable, "-c", check], check=True)


def test_bad_flags(capsys: pytest.CaptureFixture[str]) -> None:
    """Flags are checked before anything is measured."""
    assert ScaleBench(devices=(4, 1, 2)).device_counts(2) == [1, 2]
    with pytest.raises(ConfigError, match="only 2"):
        ScaleBench(devices=(4, 8)).device_counts(2)
    assert main(["bench", "scale", "--parts=decode,speed"]) == 2
    assert "items from generation, " in capsys.readouterr().err
    assert main(["bench", "scale", "--devices=two"]) == 2


def test_too_many_members_are_an_error(printed: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Uses `printed` because its run compiled the programs."""
    few = [flag for flag in _SMALL if not flag.startswith(("--parts", "--archive", "--devices"))]
    flags = (*few, "--parts=mixed", "--devices=2", "--archive=1000000000")
    assert main(["bench", "scale", *flags]) == 1
    assert "lower --archive or --children" in capsys.readouterr().err


@pytest.mark.parametrize(("room", "written"), [(2.5, ["0", "1", "0", "1", "2", "2"]), (0.9, [])])
def test_members_are_written_in_portions(
    room: float, written: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members are written as many at a time as there is room for."""
    size = sum(leaf.nbytes for leaf in random_weights(SHAPES["tiny"], 0).values())
    usage = SimpleNamespace(free=int(room * size / 0.9))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    touched = []
    for name in ("save_member", "load_member"):
        do = getattr(disk, name)
        monkeypatch.setattr(
            disk, name, lambda path, *rest, do=do: [touched.append(path.name), do(path, *rest)][1]
        )
    lines = list(disk.measure(SHAPES["tiny"], 3, tmp_path / "members"))
    assert touched == written
    assert not (tmp_path / "members").exists()
    if written:
        assert [line.what for line in lines if not isinstance(line, str)] == [
            "3 members written",
            "3 members written, on the disk",
            "3 members read",
        ]
    else:
        assert "name another disk with --folder" in str(lines)
