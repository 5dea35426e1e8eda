"""Seeds as baselines answer with their own configuration; as members, with the base's."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acdc_jax.commands.main import main
from acdc_jax.errors import AcdcError
from acdc_jax.evaluation import evaluate
from acdc_jax.evaluation.decode_and_score import Evaluator
from acdc_jax.evaluation.responses import Evaluation
from acdc_jax.inference.engine import Engine
from acdc_jax.inference.options import DecodeOptions
from acdc_jax.models.config import ModelConfig
from acdc_jax.runtime import best_of_n
from acdc_jax.runtime.member_text import text_codec
from acdc_jax.runtime.own_engines import OwnEngine, own_engines
from acdc_jax.runtime.run_reader import read_run, read_skills
from acdc_jax.runtime.seed_models import check_folders

_OWN_BASE = 1e6  # of the rotary frequencies


def _engine(seeds: Sequence[Path], model: ModelConfig, config: DecodeOptions) -> Engine:
    codec = text_codec(seeds, config, model.vocab_size)
    return Engine(
        model=model,
        encode=codec.encode,
        decode=codec.decode,
        stop_tokens=codec.stop_tokens,
        pad_token=codec.pad_token,
        max_new_tokens=config.max_new_tokens,
        batch_size=4,
        prefix=codec.prefix,
        stopped=codec.stopped,
    )


def _own(
    base: Path, seeds: Sequence[Path], config: DecodeOptions | None = None
) -> tuple[Engine, dict[str, OwnEngine]]:
    """Return the members' engine, and the engines of seeds that differ, by their folders' names."""
    config = config or DecodeOptions(system_prompt="s", max_new_tokens=8)
    folders = check_folders(base, seeds, adopt_base_config=True)
    engine = _engine(folders.seeds, folders.model, config)
    return engine, {f.name: own for f, own in own_engines(folders, config, engine).items()}


def _change(folder: Path, name: str, **fields: Any) -> None:
    path = folder / name
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | fields))


@pytest.fixture
def seeds(models: tuple[Path, Path, Path], tmp_path: Path) -> list[Path]:
    """Copies of two seeds, to be changed."""
    return [Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in models[1:]]


def test_equal_seeds_share_the_members_engine(
    models: tuple[Path, Path, Path], seeds: list[Path]
) -> None:
    """Nothing is compiled or evaluated twice for them."""
    assert _own(models[0], seeds)[1] == {}
    # A longer window changes nothing: no prompt is longer than the members'.
    _change(seeds[1], "config.json", max_position_embeddings=10_000)
    assert _own(models[0], seeds)[1] == {}


@pytest.mark.parametrize(
    ("fields", "difference"),
    [
        ({"rope_theta": _OWN_BASE}, "rope_theta 1000000.0"),
        ({"rms_norm_eps": 1e-5}, "rms_norm_eps 1e-05"),
        (
            {
                "use_sliding_window": True,
                "sliding_window": 7,
                "max_window_layers": 0,
                "layer_types": ["sliding_attention"],
            },
            "windows (7,)",
        ),
    ],
)
def test_the_model(
    models: tuple[Path, Path, Path], seeds: list[Path], fields: dict[str, Any], difference: str
) -> None:
    path = seeds[1] / "config.json"
    config = json.loads(path.read_text())
    if "rope_theta" in fields and "rope_parameters" in config:
        config["rope_parameters"] |= fields
    path.write_text(json.dumps(config | fields))
    engine, own = _own(models[0], seeds)
    assert list(own) == [seeds[1].name]
    (found,) = own.values()
    assert found.differences == (difference,)
    name = difference.split()[0]
    assert getattr(found.engine.model, name) != getattr(engine.model, name)
    assert found.engine.encode("ab") == engine.encode("ab")


def test_template_and_stop_tokens(models: tuple[Path, Path, Path], seeds: list[Path]) -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %} then "
    (seeds[1] / "chat_template.jinja").write_text(template)
    engine, own = _own(models[0], seeds)
    assert own[seeds[1].name].differences == ("chat template",)
    assert own[seeds[1].name].engine.encode("ab") != engine.encode("ab")
    # Members stop at any seed's stop token, a seed by itself only at its own.
    eos = json.loads((seeds[1] / "config.json").read_text())["eos_token_id"]
    _change(seeds[0], "generation_config.json", eos_token_id=[eos, eos + 3])
    engine, own = _own(models[0], seeds)
    assert engine.stop_tokens == (eos, eos + 3)
    assert list(own) == [seeds[1].name]
    assert own[seeds[1].name].differences == ("chat template", "stop tokens")
    assert own[seeds[1].name].engine.stop_tokens == (eos,)


def test_a_template_of_the_run_is_for_members(
    models: tuple[Path, Path, Path], seeds: list[Path], tmp_path: Path
) -> None:
    """And for seeds that have none."""
    file = tmp_path / "run.jinja"
    file.write_text("{{ messages[-1].content }} then ")
    (seeds[1] / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((seeds[1] / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (seeds[1] / "tokenizer_config.json").write_text(json.dumps(settings))
    config = DecodeOptions(system_prompt=None, chat_template=str(file))
    engine, own = _own(models[0], seeds, config)
    assert list(own) == [seeds[0].name]
    assert own[seeds[0].name].differences == ("chat template",)
    assert own[seeds[0].name].engine.encode("ab") != engine.encode("ab")


def test_a_template_that_asks_nothing(
    models: tuple[Path, Path, Path], seeds: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    """The run goes on: such a seed is asked as members are, with a warning."""
    (seeds[1] / "chat_template.jinja").write_text("{{ raise_exception('tools only') }}")
    assert _own(models[0], seeds)[1] == {}
    (line,) = caplog.messages
    assert f"{seeds[1]}: is asked as the members are" in line
    assert "tools only" in line


def test_a_shorter_window(models: tuple[Path, Path, Path], seeds: list[Path]) -> None:
    """A prompt that is too long for it loses its beginning, and answers end with the window."""
    _change(seeds[1], "config.json", max_position_embeddings=20)
    engine, own = _own(models[0], seeds)
    short = own[seeds[1].name].engine
    assert own[seeds[1].name].differences == ("max_positions 20",)
    prompt = "abcdefghijklmnop"
    assert len(engine.encode(prompt)) > 12
    assert list(short.encode(prompt)) == list(engine.encode(prompt))[-12:]
    assert short.longest is not None
    assert short.longest(prompt) == 8
    assert engine.longest is None


def _stop_with_base(evaluator: Evaluator, *arguments: Any) -> None:
    (sampler,) = arguments[3]
    raise AcdcError(f"{evaluator.engine.model.rope_theta} {sampler.name}")


def test_a_run_measures_seeds_both_ways(
    models: tuple[Path, Path, Path],
    write_model: Callable[..., Path],
    arguments: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whoever computes with the seed's own rotary base is right, whoever has another one wrong."""
    asked: list[tuple[float, str]] = []

    def answer_tasks(
        evaluator: Evaluator, population: Any, members: Any, tasks: Any, **_: Any
    ) -> Callable[[], Evaluation]:
        base = evaluator.engine.model.rope_theta
        asked.extend((base, member) for member in members)
        count = np.asarray([min(len(t.instructions), evaluator.instances_per_task) for t in tasks])
        scores = np.full((len(members), len(tasks), evaluator.instances_per_task), np.nan)
        scores[:, np.arange(scores.shape[2]) < count[:, None]] = float(base == _OWN_BASE)
        ids = tuple(task.id for task in tasks)
        return lambda: Evaluation(tuple(members), ids, scores, count, ())

    monkeypatch.setattr(evaluate, "answer_tasks", answer_tasks)
    seed = write_model(tmp_path / "seed", 3, rope_theta=_OWN_BASE)
    run_dir = tmp_path / "run"
    flags = ("--generations=0", "--adopt_base_config")
    assert main(arguments(run_dir, models[0], [models[1], seed], *flags)) == 0
    assert "As a baseline, g000-m01 has its own configuration: rope_theta" in (
        capsys.readouterr().out
    )
    run = read_run(run_dir)
    assert run.results is not None
    (table,) = run.results["sets"]
    rows = {(row["collective"], row["n"]): row["coverage"] for row in table["rows"]}
    assert rows["evolved", 3] == rows["random_members", 3] == rows["uniform_merge", 1] == 0
    assert rows["seeds", 2] == rows["all_seeds", 2] == 1
    # By its own skills, it is the best seed.
    assert rows["samples_best_seed", 3] == rows["resampled_experts", 8] == 1
    assert {member for base, member in asked if base == _OWN_BASE} == {
        "g000-m01",
        *(f"g000-m01 sample {i}" for i in range(8)),
    }
    members = run.skills.values[run.skills.members.index("g000-m01")]
    assert not members.any()
    assert run.own_skills.members == ("g000-m01",)
    assert run.own_skills.values.all()
    # Samples of a seed are a baseline, too.
    asked.clear()
    monkeypatch.setattr(best_of_n, "complete_answers", _stop_with_base)
    flags = ("--best_of_n=oracle", "--samples_of=g000-m01", "--questions=run", "--task_force=1")
    assert main(["evaluate", str(run_dir), *flags]) == 1
    assert f"{_OWN_BASE} g000-m01-own.t0.7-k0-p1-m0-s0.00" in capsys.readouterr().err
    # `acdc evaluate` completes both matrices, and asks nobody twice.
    asked.clear()
    (run_dir / "seed_skills.npz").unlink()
    for expected in ([(_OWN_BASE, "g000-m01")], []):
        assert main(["evaluate", str(run_dir)]) == 0
        assert asked == expected
        asked.clear()
    assert read_skills(run_dir, "seed_skills.npz").values.all()
    evaluation = json.loads((run_dir / "evaluation.json").read_text())
    assert evaluation["all_seeds"]["coverage"] == 1
    assert evaluation["all_candidates"]["coverage"] == 0
