"""Settings of a run: defaults, flag names, manifests of every version, and what may change."""

import json
from pathlib import Path

import pytest

from acdc_jax import flags
from acdc_jax.config import Config, changed_flags, free_flags
from acdc_jax.errors import ConfigError
from acdc_jax.evolution.merge import MergeOptions
from acdc_jax.evolution.mutate import GaussianNoise, MutationOptions, SVDNoise
from acdc_jax.evolution.propose import ProposerOptions
from acdc_jax.inference.sampling import Sampling
from acdc_jax.options import OptionError
from acdc_jax.run_options import RunOptions, SandboxOptions


def _config(*argv: str) -> Config:
    return flags.parse_flags(Config, argv)


def test_defaults_are_the_papers_settings() -> None:
    config = _config()
    assert config == Config()
    assert (config.run.population, config.run.children, config.run.generations) == (16, 8, 50)
    assert (config.proposer.kind, config.merge.normalise) == ("paper", True)
    assert (config.mutation.kind, config.mutation.scale) == ("svd", 0.25)
    assert (config.tasks.initial_tasks, config.tasks.max_tasks) == (300, 250)
    assert config.sampling == Sampling(0.7)


def test_a_flag_reaches_its_option() -> None:
    config = _config(
        *("--merge_method=della", "--density=0.5", "--epsilon=0.1", "--mutation=gaussian"),
        *("--mutation_scale=0.1", "--neighbours=2", "--nodifficulty_weights", "--scientist=local"),
        *("--scientist_model=m", "--sandbox_workers=3", "--temperature=1.5", "--top_p=0.9"),
    )
    assert config.merge == MergeOptions("della", density=0.5, epsilon=0.1)
    assert config.mutation.noise() == GaussianNoise(0.1, embeddings=True)
    assert (config.selection.k, config.selection.weighted) == (2, False)
    assert (config.scientist.kind, config.scientist.model) == ("local", "m")
    assert config.sandbox == SandboxOptions(workers=3)
    assert config.sampling == Sampling(1.5, top_p=0.9)


def test_every_option_has_a_name_of_its_own_and_a_flag_its_help() -> None:
    parts = flags.sections_of(Config).values()
    names = [name for part in parts for name in part.options()]
    assert len(set(names)) == len(names)
    text = flags.help_text([Config])
    for part in parts:
        for name, option in part.flags().items():
            assert f"--{name}=" in text or f"--[no]{name} " in text
            assert option.help.endswith((".", ". "))


def test_options_of_the_library_only_are_no_flags_but_settings() -> None:
    assert "denominator" in Config().settings()
    with pytest.raises(ConfigError, match="--denominator: unknown flag"):
        _config("--denominator=unsolved")


def test_mutations() -> None:
    assert MutationOptions().noise() == SVDNoise(0.25, 256, embeddings=True)
    assert _config("--mutation=none").mutation.noise() is None
    with pytest.raises(OptionError, match="rank must be at least 1, got 0"):
        MutationOptions(rank=0)
    with pytest.raises(ConfigError, match="--mutation_rank=0: must be at least 1"):
        _config("--mutation_rank=0")


def test_errors_between_sections_name_both_flags() -> None:
    with pytest.raises(ConfigError, match="--max_parents=20: must not exceed --population=16"):
        _config("--max_parents=20")
    with pytest.raises(OptionError, match=r"proposer.max_parents .* run.population=16.*, got 20"):
        Config(proposer=ProposerOptions(max_parents=20))


def test_settings_are_json_and_make_the_same_configuration() -> None:
    config = _config(
        *("--seed_models=a,b", "--base_model=c", "--children=6", r"--stop_strings=\n,a\,b"),
        *("--task_interval=none", "--host_budget_gb=1.5"),
    )
    settings = json.loads(json.dumps(config.settings()))
    assert Config.from_settings(settings) == config
    assert config.decode.stop_strings == ("\n", "a,b")
    del settings["children"]
    assert Config.from_settings(settings).run.children == RunOptions().children


def test_flag_lines_make_the_same_configuration(tmp_path: Path) -> None:
    config = _config("--seed_models=a,b", "--system_prompt=", "--nonormalise")
    path = tmp_path / "flags.txt"
    path.write_text("\n".join(config.flag_lines()))
    assert _config(f"--flagfile={path}") == config


# Values of older versions: texts with commas, and "" or 0 instead of None.
_OLDER = {
    "seed_models": "a,b",
    "base_model": "c",
    "stop_strings": "x,y\\,z",
    "mesh": "",
    "device_budget_gb": 0.0,
    "host_budget_gb": 0.0,
    "task_interval": 0,
    "scientist": "procedural",
    "scientist_model": "",
    "scientist_devices": 0,
    "seed_families": "",
    "mutation": "none",
    "mutation_decomposition": "exact",
    "top_k": 0,
    "sandbox_launcher": "",
    "system_prompt": "",
    "sigterm_status": 0,
    "initial_tasks": 0,
}


def test_runs_of_older_versions_are_read() -> None:
    config = Config.from_settings(_OLDER)
    assert config.seeds.seed_models == ("a", "b")
    assert config.decode.stop_strings == ("x", "y,z")
    assert (config.run.mesh, config.run.device_budget_gb, config.run.host_budget_gb) == (None,) * 3
    assert (config.tasks.task_interval, config.tasks.seed_families) == (None, "tiny")
    assert (config.scientist.model, config.scientist.devices) == (None, None)
    assert (config.mutation.kind, config.mutation.decomposition) == (None, "exact")
    assert (config.sampling.top_k, config.sandbox.launcher, config.decode.system_prompt) == (
        (None,) * 3
    )
    assert (config.processes.sigterm_status, config.tasks.initial_tasks) == (0, 0)
    assert changed_flags(config, _OLDER) == []
    assert Config.from_settings(config.settings()) == config


@pytest.mark.parametrize(
    ("older", "sets"),
    [
        ("", None),
        ("tiny", ("tiny",)),
        ("a,b/folder", ("a,b/folder",)),
        ("gym", ("gym:instances",)),
        ("gym_families", ("gym:families",)),
        (["gym:families", "tiny"], ("gym:families", "tiny")),
    ],
)
def test_runs_with_one_held_out_set_are_read(older: object, sets: object) -> None:
    assert Config.from_settings({"held_out": older}).tasks.held_out == sets


def test_held_out_sets_are_a_list() -> None:
    assert _config("--held_out=gym:instances,~/exam").tasks.held_out == (
        "gym:instances",
        str(Path.home() / "exam"),
    )
    assert _config("--held_out=none").tasks.held_out is None
    with pytest.raises(ConfigError, match="--held_out=a,b,a: must not repeat a set"):
        _config("--held_out=a,b,a")


def test_which_flags_an_existing_run_refuses() -> None:
    saved = _config().settings()
    assert changed_flags(_config("--generations=99", "--noprogress", "--run_dir=x"), saved) == []
    assert changed_flags(_config("--children=4"), saved) == ["--children=4 (the run has 8)"]
    assert changed_flags(_config("--seed_models=a,b"), saved) == [
        "--seed_models=a,b (the run has )"
    ]


def test_a_run_that_lacks_a_flag_had_its_default() -> None:
    saved = _config().settings()
    del saved["top_p"]
    assert changed_flags(_config(), saved) == []
    assert changed_flags(_config("--top_p=0.9"), saved) == ["--top_p=0.9 (the run has 1.0)"]


def test_flags_that_may_change() -> None:
    assert {"run_dir", "cache_dir", "generations", "mesh", "sandbox_workers"} <= free_flags()
    assert not {"seed", "children", "merge_method", "scientist"} & free_flags()
