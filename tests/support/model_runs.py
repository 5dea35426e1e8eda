"""Random models in Hugging Face folders, and a run small enough for a test."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import pytest

from acdc_jax import experiment
from acdc_jax.commands.main import main
from acdc_jax.config import Config
from acdc_jax.models import hf_export
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.transformer import init_params
from acdc_jax.quickstart.task_sets import held_out_families
from acdc_jax.quickstart.tokenizer import save_tokenizer
from acdc_jax.quickstart.train import TINY
from acdc_jax.runtime import run_members, setup
from acdc_jax.sharding import make_mesh
from tests.support.short_runs import write_families

SMALL = dataclasses.replace(
    TINY,
    hidden_size=16,
    intermediate_size=24,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
)


@pytest.fixture(scope="session", autouse=True)
def one_group() -> Iterator[None]:
    """Without `--mesh`, runs of this process use one device.

    Each group of devices would compile everything for itself; `test_mesh` has several.
    """
    choose_mesh = setup.choose_mesh

    def first_device(config: Config, model: ModelConfig) -> jax.sharding.Mesh:
        mesh = choose_mesh(config, model)
        return mesh if config.run.mesh else make_mesh("pop:1", mesh.devices.ravel()[:1])

    with pytest.MonkeyPatch.context() as patch:
        for module in (setup, run_members):
            patch.setattr(module, "choose_mesh", first_device)
        yield


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny tokenizer."""
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def write_model(tokenizer_folder: Path) -> Callable[..., Path]:
    """Writes a random model: `write_model(folder, seed, **fields of its configuration)`."""

    def write(folder: Path, seed: int = 0, **fields: object) -> Path:
        config: ModelConfig = dataclasses.replace(SMALL, **fields)  # type: ignore[arg-type]
        weights = init_params(config, jax.random.key(seed))
        hf_export.save(folder, config, weights, tokenizer_folder)
        return folder

    return write


@pytest.fixture(scope="session")
def models(
    write_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, Path]:
    """A base and two seeds; tests do not change them."""
    out = tmp_path_factory.mktemp("models")
    base, first, second = (write_model(out / f"model-{i}", i) for i in range(3))
    return base, first, second


def _arguments(run_dir: Path, base: Path, seeds: Sequence[Path], *more: str) -> list[str]:
    return [
        "run",
        f"--run_dir={run_dir}",
        f"--base_model={base}",
        f"--seed_models={','.join(map(str, seeds))}",
        "--scientist=procedural",
        "--seed_families=tiny",
        "--noprogress",
        "--generations=1",
        "--init_population=4",
        "--population=4",
        "--children=4",
        "--active_seed_families",
        "--initial_tasks=0",
        "--task_interval=none",
        "--max_new_tokens=4",
        "--batch_size=8",
        "--mutation=none",
        "--system_prompt=none",
        "--nogibberish_filter",
        *more,
    ]


@pytest.fixture(scope="session")
def arguments() -> Callable[..., list[str]]:
    """Command line of a run over the eight seed families: `arguments(run_dir, base, seeds, …)`."""
    return _arguments


@pytest.fixture(scope="session")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six held-out families."""
    folder = tmp_path_factory.mktemp("held_out") / "families"
    write_families(held_out_families(0)[:6], folder)
    return folder


@pytest.fixture(scope="session")
def initial_run(
    models: tuple[Path, Path, Path], held_out: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run of the initial generation with held-out tasks, not measured; to be copied."""
    run_dir = tmp_path_factory.mktemp("initial") / "run"
    base, *seeds = models
    with pytest.MonkeyPatch.context() as patch:
        _skip_measuring(patch)
        flags = ("--generations=0", "--scientist_retries=0", f"--held_out={held_out}")
        assert main(_arguments(run_dir, base, seeds, *flags)) == 0
    (run_dir / "results.json").unlink()
    return run_dir


@pytest.fixture
def acdc_run(
    models: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., int]:
    """`acdc run` in this process, up to the last commit: `acdc_run(run_dir, *flags)`."""
    _skip_measuring(monkeypatch)
    base, *seeds = models
    return lambda run_dir, *more: main(_arguments(run_dir, base, seeds, *more))


@pytest.fixture(scope="session")
def skip_measuring() -> Callable[[pytest.MonkeyPatch], None]:
    """Makes `acdc run` end at its last commit."""
    return _skip_measuring


def _skip_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"collective": "evolved", "n": 3, "coverage": 0.0}
    row |= {"coverage_majority": 0.0, "best_single": 0.0}
    table = {"name": None, "tasks": 0, "missing_tasks": 0, "rows": [row]}
    results = {"sets": [table], "task_force": {"3": ["g000-m00"]}}
    monkeypatch.setattr(experiment, "_measure", lambda *_: dict(results))
    monkeypatch.setattr(experiment, "draw_run", lambda *_: None)
    monkeypatch.setattr(experiment, "write_page", lambda *_: None)
