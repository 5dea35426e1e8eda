"""Training, on a schedule far too short to learn anything."""

import dataclasses
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from acdc_jax.errors import AcdcError
from acdc_jax.models import hf
from acdc_jax.params import Params
from acdc_jax.quickstart import train
from acdc_jax.quickstart.tokenizer import FIRST_NEW_ROW
from acdc_jax.quickstart.train import TINY, TrainRecipe, cached_seeds, train_seeds

SHORT = TrainRecipe(
    model=dataclasses.replace(TINY, hidden_size=32, head_dim=8, intermediate_size=48, num_layers=1),
    experts=(("reverse", "swap"), ("len", "add")),
    warmup=2,
    batch=16,
    base_steps=6,
    base_examples=200,
    expert_steps=4,
    expert_examples=100,
)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of a short training, with what it reported."""
    out = tmp_path_factory.mktemp("cache") / "new" / "tiny"
    train_seeds(out, 0, lambda *_: None, SHORT)
    return out


def load(folder: Path) -> Params:
    return hf.load_weights(folder, hf.read_config(folder))


def test_the_shape_is_the_recipes() -> None:
    assert sum(np.prod(s.shape) for s in train.param_shapes(TINY).values()) == 323_808


def test_writes_ordinary_folders(seeds: Path) -> None:
    assert sorted(path.name for path in seeds.iterdir()) == ["base", "expert-0", "expert-1"]
    assert not [path for path in seeds.parent.iterdir() if path != seeds]
    transformers = pytest.importorskip("transformers")
    for folder in seeds.iterdir():
        assert hf.read_config(folder) == SHORT.model
        loaded = transformers.AutoModelForCausalLM.from_pretrained(folder)
        assert loaded.generation_config.eos_token_id == 2
        assert len(transformers.AutoTokenizer.from_pretrained(folder)) == loaded.config.vocab_size


def test_experts_learn_mostly_in_the_new_words_rows(seeds: Path) -> None:
    base, expert = load(seeds / "base"), load(seeds / "expert-0")
    change = {name: np.abs(expert[name] - base[name]) for name in base}
    rows = change["embed.weight"].max(1)
    taught = [train.TOKENS.index(word) for word in ("mirror", "trade")]
    assert rows[taught].min() > 10 * max(rows[:FIRST_NEW_ROW].max(), change["norm.weight"].max())
    # Words that this expert never reads do not move: the output head's gradient is stopped.
    others = sorted(set(range(FIRST_NEW_ROW, len(train.TOKENS))) - set(taught))
    np.testing.assert_array_equal(rows[others], 0.0)


def test_training_reports_and_repeats_itself(seeds: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    again = cached_seeds(tmp_path, 0, lambda *report: seen.append(report), SHORT)
    for name in ("base", "expert-1"):
        jax.tree.map(np.testing.assert_array_equal, load(again / name), load(seeds / name))
    assert seen[0] == ("base", 0, 6)
    assert seen[-1] == ("experts", 8, 8)
    assert seen == sorted(seen)
    # The second time nothing is trained; another seed or recipe has another folder.
    assert cached_seeds(tmp_path, 0, lambda *_: pytest.fail("trained again"), SHORT) == again
    names = {
        train.cache_name(seed, recipe)
        for seed in (0, 1)
        for recipe in (SHORT, dataclasses.replace(SHORT, body_rate=0.04))
    }
    assert len(names) == 4
    assert again.name in names


def test_an_occupied_folder_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(AcdcError, match="exists already"):
        train_seeds(tmp_path, 0, lambda *_: pytest.fail("trained"), SHORT)


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AcdcError, match="cannot write"):
        train_seeds(tmp_path / "file" / "tiny", 0, lambda *_: pytest.fail("trained"), SHORT)


def test_of_two_processes_the_first_to_finish_wins(
    seeds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "tiny"

    def slower(*_: object) -> dict[str, Params]:
        shutil.copytree(seeds, out)  # meanwhile the other one finishes
        return {"base": load(seeds / "base")}

    monkeypatch.setattr(train, "_train_all", slower)
    train_seeds(out, 0, lambda *_: None, SHORT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny"]
    assert (out / "expert-1").is_dir()


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> dict[str, Params]:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "_train_all", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_seeds(tmp_path / "tiny", 0, lambda *_: None, SHORT)
    assert not list(tmp_path.iterdir())
