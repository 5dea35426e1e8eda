"""The flag files of the real run, on a random model: experts, evolution, tables and report."""

import json
from pathlib import Path

import pytest

from acdc_jax import flags
from acdc_jax.commands.main import main
from acdc_jax.config import Config
from acdc_jax.tasks.gym.split import split_families
from acdc_jax.tasks.gym.training import deal_experts
from acdc_jax.training.options import ExpertOptions, TrainOptions
from tests.support.chat_model import write_chat_model

pytest.importorskip("reasoning_gym", reason="needs the extra gym")
pytestmark = pytest.mark.slow

_CONFIGS = Path(__file__).parents[2] / "configs"
# Short questions, and few of them: each length is compiled.
_FAMILIES = "chain_sum,products,number_sequence,count_primes"


@pytest.mark.parametrize("name", ["real_135m", "real_135m_cpu"])
def test_seeds_are_the_experts(name: str) -> None:
    """A run's seeds are those that the other file makes of the same families, in the same words."""
    run = flags.parse_flags(Config, [f"--flagfile={_CONFIGS / name}.flags"])
    (experts, training), _ = flags.parse(
        (ExpertOptions, TrainOptions), [f"--flagfile={_CONFIGS / name}_experts.flags"]
    )
    assert isinstance(experts, ExpertOptions)
    assert isinstance(training, TrainOptions)
    split = split_families(experts.gym_families, training.seed)
    assert run.seeds.seed_models == tuple(
        f"{experts.out}/{expert.name}" for expert in deal_experts(split, experts.gym_experts)
    )
    assert run.tasks.gym_families == experts.gym_families
    assert (run.run.seed, run.seeds.base_model) == (training.seed, experts.base_model)
    assert run.decode.system_prompt == experts.system_prompt


def test_both_flag_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, in fewer steps."""
    base = write_chat_model(tmp_path / "base", num_layers=3)
    monkeypatch.chdir(tmp_path)
    common = [f"--base_model={base}", f"--gym_families={_FAMILIES}"]
    experts = [
        "experts",
        f"--flagfile={_CONFIGS / 'real_135m_experts.flags'}",
        *common,
        "--gym_experts=2",
        "--questions=4",
        "--steps=2",
        "--warmup=1",
        "--batch_tokens=1024",
    ]
    run = [
        "run",
        f"--flagfile={_CONFIGS / 'real_135m.flags'}",
        *common,
        "--seed_models=runs/experts_135m/arithmetic,runs/experts_135m/numbers",
        "--held_out=gym:instances",
        "--generations=1",
        "--init_population=4",
        "--population=4",
        "--children=2",
        "--initial_tasks=2",
        "--new_tasks=2",
        "--task_interval=1",
        "--nodiscard_impossible",
        "--max_new_tokens=4",
    ]
    assert not main(experts)
    assert not main(run)
    (table,) = json.loads(Path("runs/real_135m/results.json").read_text())["sets"]
    assert table["name"] == "gym:instances"
    assert "evolved" in {row["collective"] for row in table["rows"]}
    assert Path("runs/real_135m/report.html").is_file()
