"""An exported member is an ordinary Hugging Face folder."""

import json
import shutil
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acdc_jax import experiment
from acdc_jax.commands.main import main
from acdc_jax.errors import AcdcError
from acdc_jax.evolution.content_hash import content_hash
from acdc_jax.evolution.skills import SkillMatrix
from acdc_jax.models import hf, hf_export
from acdc_jax.models.transformer import forward
from acdc_jax.runtime import run_directory, run_reader

torch = pytest.importorskip("torch", reason="transformers' decoders need PyTorch")


@pytest.fixture(scope="module")
def finished(
    models: tuple[Path, Path, Path],
    arguments: Callable[..., list[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A run of two generations whose children are mutated, without its measuring."""
    base, *seeds = models
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    flags = ("--generations=2", "--mutation=svd", "--keep_every=9", "--granularity=layer")
    with pytest.MonkeyPatch.context() as patch:

        def stop(*_: Any) -> None:
            raise AcdcError("evolved")

        patch.setattr(experiment, "_measure", stop)
        assert main(arguments(run_dir, base, seeds, *flags)) == 1
    assert run_reader.read_manifest(run_dir).generation == 2
    return run_dir


@pytest.fixture
def run_dir(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_transformers_computes_the_same(run_dir: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "out"
    assert main(["export", str(run_dir), "g000-m00", str(out)]) == 0
    tokenizer = AutoTokenizer.from_pretrained(str(out))
    messages = [{"role": "user", "content": "mirror: abcd"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    tokens = tokenizer.encode(text, add_special_tokens=False)
    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(str(out))
        theirs = model(torch.tensor([tokens])).logits.numpy()
    config = hf.read_config(out)
    positions = jnp.arange(len(tokens), dtype=jnp.int32)[None]
    ours, _ = forward(
        config, hf.load_weights(out, config), jnp.asarray([tokens], jnp.int32), positions
    )
    assert np.abs(np.asarray(jax.device_get(ours)) - theirs).max() < 1e-4


def test_bad_requests_are_one_line(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    for argv, status, named in (
        ([str(run_dir), "g009-m09", out], 1, "g009-m09"),
        ([str(tmp_path / "nowhere"), "g000-m00", out], 1, "nowhere"),
        ([str(run_dir), "g000-m00"], 2, "usage"),
        ([str(run_dir), "g000-m00", str(run_dir)], 1, "not an empty folder"),
    ):
        assert main(["export", *argv]) == status
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert named in error
    assert not Path(out).exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_task_force_is_folders_with_cards(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import ModelCard
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "force"
    assert main(["export", str(run_dir), "--task_force=3", f"--out={out}"]) == 0
    assert "README.md shows" in capsys.readouterr().out
    members = sorted(path.name for path in out.iterdir() if path.is_dir())
    assert len(members) == 3
    assert set(members) <= set(run_reader.read_manifest(run_dir).archive)
    assert not list(tmp_path.glob(".*"))
    recipes = run_reader.read_recipes(run_dir, 2)
    page = (out / "README.md").read_text()
    for member in members:
        AutoTokenizer.from_pretrained(str(out / member))
        model = AutoModelForCausalLM.from_pretrained(str(out / member))
        assert sum(p.numel() for p in model.parameters()) > 0
        weights = hf.load_weights(out / member, hf.read_config(out / member))
        assert content_hash(weights) == recipes[member].content
        card = ModelCard.load(out / member / "README.md")
        assert card.data.library_name == "transformers"
        assert card.data.license == "unknown"  # the random seeds state none
        assert ("merge" in card.data.tags) == bool(recipes[member].parents)
        for parent in recipes[member].parents:
            assert f"{parent} " in card.text
        recipe = json.loads(card.text.partition("```json")[2].partition("```")[0])
        assert recipe == json.loads(json.dumps(recipes[member].to_json()))
        assert f"vllm serve ./{member} --served-model-name {member} " in page
    # The example is Python that asks each member at its own port.
    example = page.partition("```python")[2].partition("```")[0]
    asked: list[Any] = []

    class OpenAI:
        def __init__(self, base_url: str, api_key: str) -> None:
            self.chat, self.completions, self.url = self, self, base_url

        def create(self, **body: Any) -> Any:
            asked.append((self.url, body["model"]))
            message = types.SimpleNamespace(content="hello")
            return types.SimpleNamespace(choices=[types.SimpleNamespace(message=message)])

    exec(example.replace("from openai import OpenAI", ""), {"OpenAI": OpenAI})
    assert sorted(member for _, member in asked) == members
    for url, member in asked:
        port = url.removeprefix("http://localhost:").removesuffix("/v1")
        assert f"--served-model-name {member} --port {port} " in page
    said = capsys.readouterr().out
    assert all(f"{member}: hello" in said for member in members)


def test_a_card_names_the_models_that_a_member_descends_from(
    run_dir: Path, models: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    from huggingface_hub import ModelCard

    path, folders = run_dir / "manifest.json", [tmp_path / "base", tmp_path / "coder"]
    for folder, own, licence in zip(folders, models, ("mit", "llama3"), strict=False):
        shutil.copytree(own, folder)
        (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    manifest = json.loads(path.read_text())
    manifest["flags"] |= {"base_model": "owner/base", "seed_models": "owner/coder,owner/other@v1"}
    path.write_text(json.dumps(manifest))
    sources = json.loads((run_dir / "sources.json").read_text())
    sources |= {"base": str(folders[0])}
    sources["seeds"] |= {"g000-m00": str(folders[1])}
    (run_dir / "sources.json").write_text(json.dumps(sources))
    for member, expected in (
        (_newest(run_dir), ["owner/base", "owner/coder", "owner/other"]),
        ("g000-m00", ["owner/base", "owner/coder"]),
    ):
        assert main(["export", str(run_dir), member, str(tmp_path / member)]) == 0
        card = ModelCard.load(tmp_path / member / "README.md")
        assert card.data.base_model == expected
        assert card.data.license == "other"
        assert "| base | owner/base | mit |" in card.text
        assert ("owner/other" in card.text) == ("owner/other" in expected)
        assert "text operation" in card.text or "Not measured" in card.text


def test_half_a_task_force_leaves_nothing(
    run_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    full, calls, save = tmp_path / "full", [], hf_export.save
    full.mkdir()
    (full / "mine").touch()

    def fails(folder: Path, *given: Any, **named: Any) -> None:
        calls.append(folder)
        if len(calls) == 2:
            raise AcdcError("the disk is gone")
        save(folder, *given, **named)

    monkeypatch.setattr(hf_export, "save", fails)
    out = tmp_path / "out"
    for argv, status, named in (
        (["--task_force=2", f"--out={full}"], 1, "not an empty folder"),
        (["--task_force=9", f"--out={out}"], 1, "no task force of 9; the archive has 4"),
        (["--task_force=2"], 2, "belong together"),
        (["g000-m00", "--task_force=2", f"--out={out}"], 2, "usage"),
    ):
        assert main(["export", str(run_dir), *argv]) == status
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert named in error
    assert not calls
    assert main(["export", str(run_dir), "--task_force=2", f"--out={out}"]) == 1
    assert "the disk is gone" in capsys.readouterr().err
    assert len(calls) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "run"]


def test_what_was_measured_before_the_run_went_on_is_not_used(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, out = run_reader.read_archive(run_dir, 0), tmp_path / "out"
    results = {"generations": 0, "task_force": {"2": old.members[:2]}}
    (run_dir / "results.json").write_text(json.dumps(results))
    # One task was replaced since, which only one member of the archive has met.
    tasks = (*old.tasks, "t99999")
    values = np.zeros((1, len(tasks)), np.int8)
    run_directory.save_skills(run_dir, SkillMatrix(old.members[:1], tasks, values))
    assert main(["export", str(run_dir), "--task_force=2", f"--out={out}"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"run `acdc evaluate {run_dir}` first" in error
    assert not out.exists()


def _newest(run_dir: Path) -> str:
    """A member of the last generation; the last children of children come first."""
    recipes = run_reader.read_recipes(run_dir, 2)
    return max(recipes, key=lambda name: (recipes[name].generation, *recipes[name].parents))


def test_a_dropped_member_is_rebuilt_bit_for_bit(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipes = run_reader.read_recipes(run_dir, 2)
    shutil.rmtree(run_dir / "members")
    for member in (_newest(run_dir), "g000-m00"):  # a grandchild, and a seed
        out = tmp_path / member
        assert main(["export", str(run_dir), member, str(out)]) == 0
        weights = hf.load_weights(out, hf.read_config(out))
        assert content_hash(weights) == recipes[member].content
    assert "rebuilt" in capsys.readouterr().out
    assert not list(tmp_path.glob(".*"))  # nothing is left of the ancestors


@pytest.mark.parametrize("change", ["coefficients", "key", "seed", "base"])
def test_what_cannot_be_rebuilt_is_refused(
    change: str,
    run_dir: Path,
    models: tuple[Path, Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.rmtree(run_dir / "members")
    member, out = _newest(run_dir), tmp_path / "out"
    path = run_dir / "archive" / "g002.json"
    archive = json.loads(path.read_text())
    sources = json.loads((run_dir / "sources.json").read_text())
    recipe = next(child for child in archive["children"] if child["id"] == member)
    if change == "coefficients":
        recipe["coefficients"][0][0] += 0.5
    elif change == "key":
        recipe["key"][1] ^= 1
    elif change == "seed":
        sources["seeds"] = dict.fromkeys(sources["seeds"], str(models[0]))
    else:
        sources["base"] = str(tmp_path / "gone")
    path.write_text(json.dumps(archive))
    (run_dir / "sources.json").write_text(json.dumps(sources))
    named = {"seed": str(models[0]), "base": f"{tmp_path / 'gone'}: the base"}
    assert main(["export", str(run_dir), member, str(out)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert named.get(change, f"{member}: rebuilt on") in error
    assert not out.exists()


def test_lineage_reaches_the_seeds(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    member = _newest(run_dir)
    recipes = run_reader.read_recipes(run_dir, 2)
    shutil.rmtree(run_dir / "members" / recipes[member].parents[0])
    assert main(["lineage", str(run_dir), member]) == 0
    tree = capsys.readouterr().out
    assert tree.startswith(
        f"{member} generation 2, linear (normalised), svd mutation of scale 0.25"
    )
    for parent, row in zip(recipes[member].parents, recipes[member].coefficients, strict=True):
        assert f"{sum(row) / len(row):.2f}" in tree
        assert f"× {parent} " in tree
    assert "seed, on disk" in tree or "seed, dropped" in tree
    assert ", dropped" in tree
    for argv, status, named in (
        ([str(run_dir), "g009-m09"], 1, "no member 'g009-m09'"),
        ([str(run_dir)], 2, "usage"),
        (["--help"], 0, ""),
    ):
        assert main(["lineage", *argv]) == status
        assert named in capsys.readouterr().err
