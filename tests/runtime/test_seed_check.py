"""What is found between a base and its seeds: in their files, in their weights, and by a run."""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import jax
import numpy as np
import pytest

from acdc_jax.config import Config
from acdc_jax.evolution.task_vectors import BASE, Squares, squared_distances
from acdc_jax.inference.options import DecodeOptions
from acdc_jax.models import hf
from acdc_jax.models.param_shardings import param_shardings
from acdc_jax.models.transformer import init_params
from acdc_jax.params import Params
from acdc_jax.run_options import SeedOptions
from acdc_jax.runtime.seed_check import (
    compare_weights,
    least_to_largest,
    measure_weights,
    warn_of_seeds,
)
from acdc_jax.runtime.seed_descriptions import NamedModel, compare_descriptions, name_models
from acdc_jax.runtime.seed_models import check_folders
from acdc_jax.runtime.setup import RunContext
from acdc_jax.sharding import make_mesh
from tests.support.model_runs import SMALL


def _edit(path: Path, **fields: Any) -> None:
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | fields))


@pytest.fixture
def folders(models: tuple[Path, Path, Path], tmp_path: Path) -> tuple[Path, Path, Path]:
    """Copies of a base and of two seeds, which a test may change."""
    base, a, b = (
        Path(shutil.copytree(m, tmp_path / n)) for m, n in zip(models, "sab", strict=True)
    )
    return base, a, b


def _describe(folders: Sequence[Path], **options: Any) -> list[str]:
    """Differences of models, without the path of their folders."""
    base, *seeds = map(str, folders)
    checked = check_folders(base, seeds)
    models = name_models(SeedOptions(tuple(seeds), base), checked)
    lines = compare_descriptions(models, checked, DecodeOptions(system_prompt="s", **options))
    return [line.replace(f"{folders[0].parent}/", "") for line in lines]


def test_no_differences(folders: tuple[Path, Path, Path]) -> None:
    assert _describe(folders) == []


def test_licences(folders: tuple[Path, Path, Path]) -> None:
    for folder, licence in zip(folders, ("mit", "mit", "llama3"), strict=True):
        (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    assert _describe(folders) == [
        "licences differ, and a merge has the terms of all: mit (s, a); llama3 (b)"
    ]


def test_chat_templates(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, a, b = folders
    template = (a / "chat_template.jinja").read_text()
    (b / "chat_template.jinja").write_text("{# the same #}" + template)
    same = "b: its chat template writes the same prompt for a question; members have that of a"
    assert _describe(folders) == [same]
    (b / "chat_template.jinja").write_text("ask" + template)
    other = "b: its chat template writes another prompt for a question; members have that of a"
    assert _describe(folders) == [other]
    (b / "chat_template.jinja").unlink()
    assert _describe(folders) == ["b: has no chat template; it gets that of a"]
    (tmp_path / "mine").write_text("mine" + template)
    first, second = _describe(folders, chat_template=str(tmp_path / "mine"))
    assert first == other.replace("b:", "a:").replace("of a", "of --chat_template=mine")
    assert second == "b: has no chat template; it gets that of --chat_template=mine"


def test_special_and_stop_tokens(folders: tuple[Path, Path, Path]) -> None:
    *_, b = folders
    _edit(b / "tokenizer_config.json", pad_token="<unk>")
    assert _describe(folders) == ["b: pad_token '<unk>' instead of '<pad>' (a, the members')"]
    _edit(b / "tokenizer_config.json", pad_token="<pad>")
    _edit(b / "generation_config.json", eos_token_id=[2, 3])
    names = json.loads((b / "tokenizer.json").read_text())["model"]["vocab"]
    eos, three = (next(t for t, i in names.items() if i == number) for number in (2, 3))
    assert _describe(folders) == [
        f"stop tokens differ, and members stop at each: a {eos!r}; b {eos!r} {three!r}"
    ]


def test_a_shorter_window(folders: tuple[Path, Path, Path]) -> None:
    *_, b = folders
    _edit(b / "config.json", max_position_embeddings=16)
    assert _describe(folders) == [
        f"b: its window is 16 tokens, the members' is {SMALL.max_positions}, the base's"
    ]


def test_the_base_that_a_card_names(
    folders: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only if the base is named by its Hub id, of any revision."""
    _, a, b = folders
    (a / "README.md").write_text("---\nbase_model: Owner/Base\n---\n")
    (b / "README.md").write_text("---\nbase_model: [owner/other]\n---\n")
    assert _describe(folders) == []
    checked = check_folders(*folders[:1], folders[1:])
    options = SeedOptions(("a", "b"), "owner/base@v1")
    models = name_models(options, checked)
    lines = compare_descriptions(models, checked, DecodeOptions())
    assert lines == ["b: its card names owner/other as its base, not owner/base"]


# --------------------------------------------------------------------------------------- weights


def _measure(models: Sequence[Params]) -> Squares:
    (path,) = ("layers.0.attention.q.weight",)
    return squared_distances([model[path] for model in models])


def _named(*names: str) -> list[NamedModel]:
    return [NamedModel(name, Path(name), "mit") for name in names]


@pytest.fixture(scope="module")
def params() -> dict[str, Params]:
    """A base and two fine-tunes of it; a model trained apart and a fine-tune of that."""
    apart = init_params(SMALL, jax.random.key(1))

    def near(model: Params, seed: int) -> Params:
        noise = init_params(SMALL, jax.random.key(seed))
        return {path: leaf + 0.05 * noise[path] for path, leaf in model.items()}

    base = init_params(SMALL, jax.random.key(0))
    tuned = {"base": base, "near": near(base, 2), "nearer": near(base, 3)}
    return tuned | {"apart": apart, "beside": near(apart, 4)}


def _findings(params: dict[str, Params], *names: str) -> list[str]:
    squares = {"q": _measure([params[name] for name in ("base", *names)])}
    return compare_weights(_named("base", *names), squares)


def test_fine_tunes(params: dict[str, Params]) -> None:
    assert _findings(params, "near") == []
    assert _findings(params, "near", "nearer") == []


def test_equal_weights(params: dict[str, Params]) -> None:
    assert _findings(params, "near", "base") == ["base: has the weights of the base base"]
    assert (
        _findings(params, "near", "near", "near")
        == ["near: has the weights of near; leave one of them out"] * 2
    )


def test_no_fine_tunes(params: dict[str, Params]) -> None:
    (line,) = _findings(params, "near", "apart")
    assert line.startswith("apart: is no fine-tune of the base base: the cosine of their weights")
    *lines, wrong_base = _findings(params, "apart", "beside")
    assert [line.partition(":")[0] for line in lines] == ["apart", "beside"]
    assert wrong_base.startswith("the seeds are fine-tunes of one base, but not of base")


def test_the_ratio_of_the_paper(params: dict[str, Params]) -> None:
    third = {path: 2 * leaf for path, leaf in params["base"].items()}
    names = ("near", "nearer", "third")
    models = {**params, "third": third}
    squares = {"q": _measure([models[name] for name in ("base", *names)])}
    exact = [np.asarray(models[n]["layers.0.attention.q.weight"], np.float64) for n in names]
    pairs = [np.linalg.norm(exact[i] - exact[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert least_to_largest(squares) == pytest.approx(min(pairs) / max(pairs), rel=1e-5)
    (line,) = compare_weights(_named("base", *names), squares)
    assert line.startswith(
        f"least / largest distance between seeds: {min(pairs) / max(pairs):.2g}."
    )


def test_all_weights_of_folders_are_measured(models: tuple[Path, Path, Path]) -> None:
    folders, steps = check_folders(models[0], models[1:]), list[int]()
    squares = measure_weights(folders, lambda _, done, total, note="": steps.append(total - done))
    exact = [hf.load_weights(m, folders.model) for m in models]
    difference = [np.asarray(exact[1][p] - exact[0][p], np.float64) for p in exact[0]]
    expected = sum(np.square(d).sum() for d in difference)
    assert sum(sums[BASE, BASE + 1] for sums in squares.values()) == pytest.approx(
        expected, rel=1e-5
    )
    assert steps == list(reversed(range(len(exact[0]))))


def test_a_run_warns(models: tuple[Path, Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    """Of each seed as it is loaded, and in one line how far the seeds are from the base."""
    base, a, b = models
    seeds = (a, b, a)
    folders = check_folders(base, seeds)
    options = SeedOptions(tuple(map(str, seeds)), str(base))
    mesh = make_mesh("model:2", jax.devices()[:2])
    load = partial(hf.load_weights, shardings=param_shardings(mesh, folders.model, False))
    loaded = {f"m{i}": load(f, folders.model) for i, f in enumerate(seeds)}
    context = SimpleNamespace(
        config=dataclasses.replace(
            Config(), seeds=options, decode=DecodeOptions(system_prompt="s")
        ),
        folders=folders,
        seeds=dict(zip(loaded, seeds, strict=True)),
        store=SimpleNamespace(get=loaded.__getitem__),
        bases=[load(base, folders.model)],
    )
    warn_of_seeds(cast(RunContext, context))
    *apart, copy, distances = caplog.messages
    assert [line.partition(": the cosine")[0] for line in apart] == [
        f"{seed}: is no fine-tune of the base {base}" for seed in seeds
    ]
    assert copy == f"{a}: has the weights of {a}; leave one of them out"
    assert distances == (
        "seeds: 1.3 of the base's norm away from it; `acdc seeds check` with these flags compares "
        "them with each other"
    )
