"""Every option of a run.

`Config` composes the option dataclasses of the algorithms, and says which options are flags of
`acdc run` and under which name.
"""

import contextlib
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self

from acdc_jax import flags
from acdc_jax.evolution.dns import SelectionOptions
from acdc_jax.evolution.evosax_strategy import StrategyOptions
from acdc_jax.evolution.merge import MergeOptions
from acdc_jax.evolution.mutate import MutationOptions
from acdc_jax.evolution.propose import ProposerOptions
from acdc_jax.flags import section
from acdc_jax.inference.options import DecodeOptions
from acdc_jax.inference.sampling import Sampling
from acdc_jax.options import Option, OptionError, not_none
from acdc_jax.run_options import ProcessOptions, RunOptions, SandboxOptions, SeedOptions
from acdc_jax.tasks.options import NoveltyOptions, ScientistOptions, TaskPoolOptions


@dataclass(frozen=True)
class Config:
    """Every option of a run."""

    run: RunOptions = section(RunOptions(), "The run")
    seeds: SeedOptions = section(SeedOptions(), "Seed models")
    proposer: ProposerOptions = section(
        ProposerOptions(), "Parents and merge coefficients", names={"kind": "proposer"}
    )
    strategy: StrategyOptions = section(
        StrategyOptions(),
        "Evolution strategy",
        names={"name": "strategy", "spread": "strategy_std"},
        prefix="strategy_",
        library_only=("spread", "reward"),
    )
    merge: MergeOptions = section(MergeOptions(), "Merging", names={"method": "merge_method"})
    mutation: MutationOptions = section(
        MutationOptions(),
        "Mutation",
        names={"kind": "mutation", "embeddings": "mutate_embeddings"},
        prefix="mutation_",
        library_only=("embeddings", "decomposition"),
    )
    selection: SelectionOptions = section(
        SelectionOptions(),
        "Archive",
        names={"by": "selection", "k": "neighbours", "weighted": "difficulty_weights"},
        library_only=("dominated_score", "denominator", "distance"),
    )
    tasks: TaskPoolOptions = section(
        TaskPoolOptions(),
        "Tasks",
        library_only=(
            "micro_batch",
            "novel_probability",
            "easy_novel_probability",
            "easy_threshold",
            "hard_threshold",
            "skill_threshold",
        ),
    )
    novelty: NoveltyOptions = section(
        NoveltyOptions(),
        "Novelty of tasks",
        names={
            "applies_to": "novelty_applies_to",
            "decision": "novelty_decision",
            "threshold": "novelty_threshold",
        },
    )
    scientist: ScientistOptions = section(
        ScientistOptions(),
        "Scientist",
        names={"kind": "scientist", "reflections": "reflections", "adapt_ahead": "adapt_ahead"},
        prefix="scientist_",
        library_only=("temperature", "top_p"),
    )
    decode: DecodeOptions = section(DecodeOptions(), "Responses")
    sampling: Sampling = section(
        Sampling(temperature=0.7),
        "Samples of one model, which task forces are compared with",
        library_only=("top_k", "min_p"),
    )
    sandbox: SandboxOptions = section(
        SandboxOptions(),
        "Sandbox of task code",
        names={"allow_unsafe": "allow_unsafe_sandbox"},
        prefix="sandbox_",
        library_only=("memory_mb",),
    )
    processes: ProcessOptions = section(ProcessOptions(), "Several processes, and SIGTERM")

    def __post_init__(self) -> None:
        if self.proposer.max_parents > self.run.population:
            raise OptionError(
                self,
                "proposer.max_parents",
                "must not exceed {run.population}: parents are distinct archive members",
            )
        if self.processes.several:
            serve = "must not be local with several processes: serve the model, and use openai"
            if self.scientist.kind == "local":
                raise OptionError(self, "scientist.kind", serve)
            if self.novelty.embeddings == "local":
                raise OptionError(self, "novelty.embeddings", serve)

    def settings(self) -> dict[str, Any]:
        """Return every option by the name of its flag, ready for JSON."""
        return {
            name: _to_json(getattr(getattr(self, field), declared.name))
            for field, part in flags.sections_of(type(self)).items()
            for name, declared in part.options().items()
        }

    def shared_settings(self) -> dict[str, Any]:
        """Return the settings that all processes of a run share."""
        process_flags = ("distributed", "coordinator", "num_processes", "process_id")
        return {name: value for name, value in self.settings().items() if name not in process_flags}

    def flag_lines(self) -> list[str]:
        """Return the lines of a flag file with these settings, without those of one process."""
        shared, sections = self.shared_settings(), flags.sections_of(type(self)).values()
        names = [name for part in sections for name in part.flags() if name in shared]
        return flags.file_lines({name: shared[name] for name in names})

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Return the configuration of a manifest's settings, with defaults for missing ones."""
        settings = _upgrade(settings)
        parts = {}
        for field, part in flags.sections_of(cls).items():
            values = {
                declared.name: _from_json(settings.get(name, declared.default))
                for name, declared in part.options().items()
            }
            parts[field] = part.kind(**values)
        return cls(**parts)


# Options that older versions wrote as 0 instead of none.
_ZERO_WAS_NONE = (
    "device_budget_gb",
    "host_budget_gb",
    "task_interval",
    "scientist_devices",
    "top_k",
)


# Registered held-out sets that have another name now.
_RENAMED_HELD_OUT = {"gym": "gym:instances", "gym_families": "gym:families"}

# How runs worked before these options existed.
_EARLIER_RULES = {
    "active_seed_families": True,
    "limbo": "all_failed",
    "medium_novel_probability": 0.8,
    "novelty_applies_to": "all",
}


def _to_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _from_json(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _upgrade(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run of any version as this version writes them."""
    upgraded = dict(settings)
    if isinstance(one_set := settings.get("held_out"), str):  # older versions had one
        upgraded["held_out"] = [_RENAMED_HELD_OUT.get(one_set, one_set)] if one_set else None
    for name, declared in _options().items():
        value = upgraded.get(name)
        optional = not_none(declared.type) is not declared.type
        if optional and (value == "" or (value == 0 and name in _ZERO_WAS_NONE)):
            upgraded[name] = None
        elif isinstance(value, str) and typing.get_origin(declared.type) is tuple:
            upgraded[name] = list(flags.read(value, declared.type))
        if declared.path and name in upgraded:  # older versions kept `~`
            with contextlib.suppress(ValueError):
                paths = _from_json(upgraded[name])
                upgraded[name] = _to_json(flags.expand_paths(paths, declared))
    if settings.get("mutation") == "none":
        upgraded["mutation"] = None
    for name, value in _EARLIER_RULES.items():
        upgraded.setdefault(name, value)
    if settings.get("seed_families") == "":  # chosen by the scientist
        grammar = settings.get("scientist") == "procedural"
        upgraded["seed_families"] = "tiny" if grammar else "general"
    return upgraded


def _options() -> dict[str, Option]:
    """Return name → option of all sections."""
    sections = flags.sections_of(Config).values()
    return {name: declared for part in sections for name, declared in part.options().items()}


def free_flags() -> set[str]:
    """Return the flags that may change when a run resumes."""
    return {name for name, declared in _options().items() if declared.resumable}


RECORDED_FLAGS = ("gibberish_filter", "scientist_model", "scientist_max_tokens", "embedding_model")
"""Flags that may change, so that a run can continue, although they change what it does."""


def changes_to_record(config: Config, saved: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the flags that change what a started run does from now on.

    Args:
        config: The new settings.
        saved: The run's settings so far.

    Returns:
        Flag → its old and its new value.
    """
    before, after = Config().settings() | _upgrade(saved), config.settings()
    return {
        name: (before[name], after[name]) for name in RECORDED_FLAGS if before[name] != after[name]
    }


def first_pool_flags() -> set[str]:
    """Return the flags that the first tasks depend on."""
    fields = ("seeds", "tasks", "novelty", "scientist", "decode", "sandbox")
    parts = flags.sections_of(Config)
    return {"seed", *(name for field in fields for name in parts[field].options())}


def changed_flags(
    config: Config, saved: Mapping[str, Any], fixed: Collection[str] | None = None
) -> list[str]:
    """Return the flags that differ from those of a run and may not change.

    Args:
        config: The new settings.
        saved: The run's settings. A flag that they lack had its default.
        fixed: Only these flags may not change; None for all.

    Returns:
        `--name=new (the run has old)`, one for each flag.
    """
    before = Config().settings() | _upgrade(saved)
    free = free_flags()
    return [
        f"--{name}={flags.write(value)} (the run has {flags.write(before[name])})"
        for name, value in config.settings().items()
        if name not in free and before[name] != value and (fixed is None or name in fixed)
    ]
