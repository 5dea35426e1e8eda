"""Experts, from flags to folders: on tiny checkpoints, a few steps."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from acdc_jax.errors import AcdcError, ConfigError
from acdc_jax.models import hf
from acdc_jax.models.model_card import bases_of
from acdc_jax.tasks.gym.split import split_families
from acdc_jax.training import experts as module
from acdc_jax.training.data import ExpertData, load_data
from acdc_jax.training.experts import train_experts
from acdc_jax.training.options import ExpertOptions, TrainOptions
from acdc_jax.training.plan import ExpertsPlan, plan_experts
from acdc_jax.training.record import lock_out
from tests.support.hf_checkpoints import Checkpoint

pytestmark = pytest.mark.xdist_group("torch")  # one process imports torch, not each

TRAINING = TrainOptions(
    steps=5, batch_tokens=128, length=64, learning_rate=1e-2, warmup=1, save_every=2
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of conversations, of which two of the second are too long."""
    folder = tmp_path_factory.mktemp("data")
    for name, symbol in (("stars", "*"), ("dots", ".")):
        lines = []
        for i in range(12):
            question, answer = f"{i} {symbol}?", f"{i}" + symbol * (i % 5)
            roles = (
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            )
            lines.append(json.dumps({"messages": roles}))
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    with (folder / "dots.jsonl").open("a") as file:
        for _ in range(2):
            line = {"prompt": "?" * 80, "completion": "."}
            file.write(f"\n{json.dumps(line)}")
    return folder


@pytest.fixture(scope="module")
def base(checkpoints: dict[str, Checkpoint]) -> Checkpoint:
    return checkpoints["llama-wide-heads"]


def options(base: Checkpoint, data: Path, out: Path) -> ExpertOptions:
    return ExpertOptions(
        base_model=str(base.folder),
        out=str(out),
        experts=(f"stars={data}/stars.jsonl", f"dots={data}/dots.jsonl"),
        system_prompt=None,
    )


def make(
    experts: ExpertOptions, training: TrainOptions = TRAINING, stop_at: int | None = None
) -> list[str]:
    """Train, up to a step; return what is told."""
    lines: list[str] = []

    def progress(step: str, done: int, total: int, note: str = "") -> None:
        if done == stop_at:
            raise KeyboardInterrupt

    train_experts(plan_experts(experts, training, lines.append), progress, lines.append)
    return lines


def weights(folder: Path) -> dict[str, np.ndarray]:
    config = hf.read_config(folder)
    return jax.tree.map(np.asarray, hf.load_weights(folder, config))


@pytest.fixture(scope="module")
def written(base: Checkpoint, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two experts, and what was told of them."""
    out = tmp_path_factory.mktemp("experts") / "out"
    lines = make(options(base, data, out))
    (out / "told.txt").write_text("\n".join(lines))
    return out


def test_experts_are_ordinary_folders(base: Checkpoint, written: Path) -> None:
    """transformers loads them, and they have learnt; the card names data and flags."""
    import transformers

    for name in ("stars", "dots"):
        folder = written / name
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        assert model.config.tie_word_embeddings
        assert transformers.AutoTokenizer.from_pretrained(folder).chat_template
        card = (folder / "README.md").read_text()
        assert f"{name}.jsonl" in card
        assert "--learning_rate=0.01" in card
        assert bases_of(folder) == ()  # a local folder is no Hub id
    told = (written / "told.txt").read_text()
    losses = [line.rsplit(" ", 3) for line in told.splitlines() if "→" in line]
    assert len(losses) == 2
    assert "14 conversations" in told
    assert "2 are longer than a row" in told
    before, stars, dots = (weights(p) for p in (base.folder, written / "stars", written / "dots"))
    for path in before:
        assert (stars[path] != before[path]).any(), path
        assert (stars[path] != dots[path]).any(), path
    assert not (written / ".state").exists()


@pytest.mark.parametrize("stop_at", [1, 3])
def test_a_killed_training_goes_on_with_the_same_bits(
    base: Checkpoint, data: Path, written: Path, tmp_path: Path, stop_at: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        make(options(base, data, tmp_path), stop_at=stop_at)
    assert not (tmp_path / "stars").exists()
    make(options(base, data, tmp_path))
    for name in ("stars", "dots"):
        jax.tree.map(
            np.testing.assert_array_equal, weights(tmp_path / name), weights(written / name)
        )


def test_a_finished_expert_is_not_trained_again(
    base: Checkpoint, data: Path, written: Path, tmp_path: Path
) -> None:
    """Of two, one is trained alone, and is the same."""
    out = tmp_path / "out"
    shutil.copytree(written, out)
    shutil.rmtree(out / "dots")
    (out / "stars" / "mark").touch()
    lines = make(options(base, data, out))
    assert len([line for line in lines if "written" in line]) == 1
    assert (out / "stars" / "mark").exists()
    jax.tree.map(np.testing.assert_array_equal, weights(out / "dots"), weights(written / "dots"))
    lines = make(options(base, data, out))
    assert not [line for line in lines if "written" in line]


def test_rounds(base: Checkpoint, data: Path, written: Path, tmp_path: Path) -> None:
    """If memory holds one expert only, the other one follows, also after a kill between them."""
    lines: list[str] = []
    experts = options(base, data, tmp_path)
    plan = dataclasses.replace(plan_experts(experts, TRAINING, lines.append), at_once=1)
    mesh = jax.sharding.Mesh(plan.mesh.devices[:1], plan.mesh.axis_names)
    plan = dataclasses.replace(plan, mesh=mesh)
    seen: list[str] = []

    def progress(step: str, done: int, total: int, note: str = "") -> None:
        seen.append(step)
        if step == "training dots" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_experts(plan, progress, lines.append)
    assert list(dict.fromkeys(seen)) == ["training stars", "training dots"]
    after: list[tuple[str, int]] = []
    train_experts(plan, lambda step, done, *_: after.append((step, done)), lines.append)
    assert after[0] == ("training dots", 2)
    assert not (tmp_path / ".state").exists()
    for name in ("stars", "dots"):
        ours, theirs = weights(tmp_path / name), weights(written / name)
        for path in ours:
            np.testing.assert_allclose(ours[path], theirs[path], rtol=1e-4, atol=1e-5)


def test_several_steps_in_a_call(
    base: Checkpoint, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU; killed after the state was saved."""
    monkeypatch.setattr(module, "steps_per_call", lambda steps: 2)
    even = dataclasses.replace(TRAINING, steps=6, save_every=3)
    with pytest.raises(KeyboardInterrupt):
        make(options(base, data, tmp_path / "a"), even, stop_at=6)
    make(options(base, data, tmp_path / "a"), even)
    monkeypatch.undo()
    make(options(base, data, tmp_path / "b"), even)
    for name in ("stars", "dots"):
        ours, theirs = weights(tmp_path / "a" / name), weights(tmp_path / "b" / name)
        for path in ours:
            np.testing.assert_allclose(ours[path], theirs[path], rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers, about PEFT
def test_adapters(base: Checkpoint, data: Path, tmp_path: Path) -> None:
    """PEFT reads the adapter, and computes what the merged folder does; so does a run."""
    import peft
    import torch
    import transformers

    from acdc_jax.models.find_model import find_model

    lora = dataclasses.replace(TRAINING, lora_rank=2, lora_alpha=6.0)
    make(options(base, data, tmp_path / "a"), lora)
    make(options(base, data, tmp_path / "m"), dataclasses.replace(lora, merge_adapters=True))
    adapter, merged = tmp_path / "a" / "stars", tmp_path / "m" / "stars"
    plain = transformers.AutoModelForCausalLM.from_pretrained(base.folder)
    ours = transformers.AutoModelForCausalLM.from_pretrained(merged)
    tokens = torch.arange(3, 40)[None]
    with torch.no_grad():
        before = plain(tokens).logits
        theirs = peft.PeftModel.from_pretrained(plain, adapter)(tokens).logits
        np.testing.assert_allclose(ours(tokens).logits, theirs, atol=2e-4)
        assert (theirs - before).abs().max() > 0.05
    fields = json.loads((adapter / "adapter_config.json").read_text())
    assert fields["base_model_name_or_path"] == str(base.folder)
    read = weights(find_model(f"{base.folder}+{adapter}"))
    for path, leaf in weights(merged).items():
        np.testing.assert_allclose(read[path], leaf, atol=1e-5)


def test_a_bfloat16_base_stays_one(base: Checkpoint, data: Path, tmp_path: Path) -> None:
    half = dataclasses.replace(options(base, data, tmp_path), dtype="bfloat16")
    make(half, dataclasses.replace(TRAINING, steps=2, warmup=0))
    assert hf.read_config(tmp_path / "stars").dtype == "bfloat16"


def test_what_is_refused_before_weights_are_read(
    base: Checkpoint, data: Path, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(plan: ExpertsPlan) -> Iterator[None]:
        pytest.fail("weights are read")

    monkeypatch.setattr(module, "_load_base", refuse)
    good = options(base, data, tmp_path / "out")

    def error(experts: ExpertOptions, training: TrainOptions = TRAINING) -> str:
        with pytest.raises(AcdcError) as caught:
            make(experts, training)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    change = dataclasses.replace
    assert "--base_model is missing" in error(change(good, base_model=None))
    assert "--out is missing" in error(change(good, out=None))
    assert "nowhere" in error(change(good, base_model=str(tmp_path / "nowhere")))
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps({"prompt": "?" * 200, "completion": "."}))
    assert "none of its 1 conversations" in error(change(good, experts=(f"long={long}",)))
    assert "no.jsonl" in error(change(good, experts=("a=no.jsonl",)))
    assert "--length=192: the base's window is 128" in error(
        good, change(TRAINING, length=192, batch_tokens=192)
    )
    other = change(options(base, data, written))
    message = error(other, change(TRAINING, learning_rate=2e-2))
    assert "--learning_rate=0.02" in message
    assert "--learning_rate=0.01" in message
    occupied = tmp_path / "occupied"
    occupied.mkdir()
    (occupied / "thesis.txt").touch()
    assert "not empty" in error(change(good, out=str(occupied)))
    (tmp_path / "file").touch()
    assert "is a file" in error(change(good, out=str(tmp_path / "file")))


def test_questions_of_reasoning_gym(base: Checkpoint) -> None:
    """Experts learn families of the run's side only; without names, the categories are dealt."""
    pytest.importorskip("reasoning_gym", reason="needs the extra gym")
    split = split_families(("arithmetic",), 0)
    config = hf.read_config(base.folder)

    def load(names: str, experts: int = 1) -> list[ExpertData]:
        chosen = ExpertOptions(
            experts=tuple(names.split(",")) if names else (),
            gym_experts=experts,
            gym_families=("arithmetic",),
            questions=3,
            system_prompt=None,
        )
        return list(load_data(chosen, 0, base.folder, config, None, 512))

    inside = [family.name for family in split.pool[:2]]
    (expert,) = load(f"a=gym:{','.join(inside)},{split.held_out[0].name}")
    assert expert.about == f"questions of reasoning-gym: {', '.join(inside)}"
    assert 3 <= expert.conversations <= 6
    with pytest.raises(ConfigError, match="a: all its families are held out with --seed=0"):
        load(f"a=gym:{split.held_out[0].name}")
    with pytest.raises(ConfigError, match="--gym_experts=2: "):
        load("", experts=2)


def test_a_folder_in_use_is_refused(base: Checkpoint, data: Path, tmp_path: Path) -> None:
    with lock_out(tmp_path), pytest.raises(AcdcError, match="another process trains there"):
        make(options(base, data, tmp_path))


def test_changed_data_is_noticed(
    base: Checkpoint, data: Path, written: Path, tmp_path: Path
) -> None:
    shutil.copytree(written, tmp_path / "out")
    shutil.copytree(data, tmp_path / "data")
    with (tmp_path / "data" / "dots.jsonl").open("a") as file:
        file.write('\n{"prompt": "a", "completion": "b"}')
    changed = options(base, tmp_path / "data", tmp_path / "out")
    record = tmp_path / "out" / "experts.json"
    text = record.read_text().replace(str(data), str(tmp_path / "data"))
    record.write_text(text)
    with pytest.raises(AcdcError, match="the data of dots differs"):
        make(changed)


def test_a_loss_that_is_not_finite_ends_the_training(
    base: Checkpoint, data: Path, tmp_path: Path
) -> None:
    wild = dataclasses.replace(TRAINING, learning_rate=1e30, warmup=0)
    with pytest.raises(AcdcError, match=r"expert stars: the loss of step \d is not finite"):
        make(options(base, data, tmp_path), wild)


@pytest.mark.parametrize(
    ("experts", "message"),
    [
        (("words",), "is not NAME="),
        (("a=",), "has no data"),
        (("a/b=x.jsonl",), "cannot be the name"),
        (("a=x.jsonl", "a=y.jsonl"), "appears twice"),
        (("a=gym:words", "-nothing"), "a: 'nothing' is neither"),
        (("a=x.jsonl", "words"), "is not NAME="),
    ],
)
def test_experts_that_cannot_be_read(experts: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExpertOptions(experts=experts)


def test_experts_are_read() -> None:
    sources = ExpertOptions(experts=("a=gym:words", "-ab", "logic", "b=x=y.jsonl")).sources()
    assert sources == [("a", ("words", "-ab", "logic"), ""), ("b", (), "x=y.jsonl")]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"length": 100}, "multiple of 64"),
        ({"batch_tokens": 512, "length": 1024}, "at least length"),
        ({"warmup": 500}, "lower than steps"),
        ({"lora_alpha": 1.0}, "lora_rank"),
        ({"merge_adapters": True}, "lora_rank"),
    ],
)
def test_options_that_do_not_fit(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainOptions(**fields)  # type: ignore[arg-type]


def test_flags_become_errors_of_flags() -> None:
    from acdc_jax.commands.experts import command

    with pytest.raises(ConfigError, match="--experts=words"):
        command(["--experts=words"])
