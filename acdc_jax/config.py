"""Every setting of a run, as validated frozen dataclasses. `flags.py` makes the flags from them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from acdc_jax.errors import ConfigError
from acdc_jax.evolve.archive import Selection
from acdc_jax.evolve.mutate import Mutation
from acdc_jax.flags import check_bounds, setting


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The run"""

    run_dir: str = setting("runs/run", "Directory of the run; an existing run in it is resumed.")
    seed: int = setting(0, "PRNG seed; the same flags and seed give the same archive.", low=0)
    generations: int = setting(
        50, "Generations after the initial one; may grow on a resumed run.", low=0, resumable=True
    )
    init_population: int = setting(16, "Members of generation 0, seeds included.", low=1)
    population: int = setting(16, "Members that the archive keeps.", low=1)
    children: int = setting(8, "Children per generation.", low=1)
    keep_every: int = setting(5, "Members of every k-th generation's archive stay on disk.", low=1)
    mesh: str = setting(
        "pop:-1", "Device mesh, e.g. pop:4,model:2; -1 takes the devices that are left."
    )
    progress: bool = setting(True, "Show progress bars.", resumable=True)
    tensorboard: bool = setting(
        False, "Write each generation's figures as TensorBoard event files.", resumable=True
    )
    wandb: str = setting(
        "", "Weights & Biases project that is told each generation's figures.", resumable=True
    )

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclasses.dataclass(frozen=True)
class SeedConfig:
    """Seed models"""

    seed_models: str = setting(
        "tiny",
        "`tiny`: the embedded ones, trained once and cached; or comma-separated Hugging Face "
        "folders, all of one architecture.",
    )
    base_model: str = setting(
        "", "Hugging Face folder of the base that the seeds were tuned from (not with `tiny`)."
    )
    cache_dir: str = setting(
        "", "Where the tiny seeds are kept; default $XDG_CACHE_HOME or ~/.cache, then acdc_jax."
    )

    def __post_init__(self) -> None:
        if self.seed_models == "tiny" and self.base_model:
            raise ConfigError("--base_model: the tiny seeds bring their own base; drop this flag")
        if self.seed_models != "tiny" and not self.base_model:
            raise ConfigError("--base_model is missing: merging needs the base of --seed_models")


@dataclasses.dataclass(frozen=True)
class EvolveConfig:
    """Merging, mutation and the archive"""

    proposer: str = setting(
        "paper",
        "Who proposes merge coefficients: paper (N(1, 0.01), normalised), uniform (U(0, 1.3) per "
        "parent, added), module (the same plus N(0, 0.25) per group of weights), outer (parent "
        "scale × group scale), evosax (a strategy that learns them).",
        choices=("paper", "uniform", "module", "outer", "evosax"),
    )
    granularity: str = setting(
        "global",
        "Groups of weights with a coefficient of their own.",
        choices=("global", "layer", "module"),
    )
    normalise: bool = setting(
        True, "Divide task vectors by the sum of their coefficients, as the paper does."
    )
    min_parents: int = setting(2, "Fewest parents of a child.", low=1)
    max_parents: int = setting(2, "Most parents of a child.", low=1)
    strategy: str = setting("CMA_ES", "evosax algorithm for --proposer=evosax.")
    strategy_std: float = setting(0.25, "Initial step size of the strategy.", low=0)
    strategy_reward: str = setting(
        "novelty", "What the strategy maximises.", choices=("novelty", "fitness")
    )
    mutation: str = setting(
        "svd", "Mutation of a child after the merge.", choices=("none", "svd", "gaussian")
    )
    mutation_scale: float = setting(0.25, "Standard deviation of the mutation's noise.", low=0)
    mutation_rank: int = setting(256, "Singular values that the SVD mutation perturbs.", low=1)
    mutation_relative: bool = setting(
        False, "Scale the noise by the singular value (svd) or the weight's spread (gaussian)."
    )
    mutate_embeddings: bool = setting(True, "Mutate embeddings and the head too.")
    selection: str = setting(
        "novelty",
        "Archive update: dominated novelty search, or the fittest.",
        choices=("novelty", "fitness"),
    )
    neighbours: int = setting(3, "Nearest fitter members that novelty averages over.", low=1)
    dominated_score: float = setting(999.0, "Novelty of the fittest member.")
    difficulty_weights: bool = setting(True, "Weight a skill by how many candidates lack it.")
    denominator: str = setting(
        "all",
        "Novelty is relative to all skills, or to those the other leaves unsolved.",
        choices=("all", "unsolved"),
    )
    distance: str = setting(
        "unique",
        "Skills that the other lacks, or Hamming distance.",
        choices=("unique", "hamming"),
    )
    gibberish_filter: bool = setting(True, "Drop children whose responses are gibberish.")

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.min_parents > self.max_parents:
            raise ConfigError(
                f"--min_parents={self.min_parents} is above --max_parents={self.max_parents}"
            )
        if self.distance == "hamming" and self.denominator == "unsolved":
            raise ConfigError(
                "--distance=hamming counts solved tasks too; it needs --denominator=all"
            )

    def to_mutation(self) -> Mutation | None:
        """What the mutation flags say."""
        if self.mutation == "none":
            return None
        return Mutation(
            "svd" if self.mutation == "svd" else "gaussian",
            self.mutation_scale,
            self.mutation_rank,
            self.mutation_relative,
            self.mutate_embeddings,
        )

    def to_selection(self, population: int) -> Selection:
        """What the archive flags say."""
        return Selection(
            population,
            "novelty" if self.selection == "novelty" else "fitness",
            self.neighbours,
            self.dominated_score,
            self.difficulty_weights,
            "all" if self.denominator == "all" else "unsolved",
            "unique" if self.distance == "unique" else "hamming",
        )


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """Tasks"""

    scientist: str = setting(
        "procedural", "Who writes tasks: procedural (a grammar, no LLM).", choices=("procedural",)
    )
    initial_tasks: int = setting(300, "Drafts written before the first generation.", low=0)
    max_tasks: int = setting(250, "Tasks in the pool at most; the oldest leave.", low=1)
    new_tasks: int = setting(150, "Drafts written per adaptation.", low=0)
    task_interval: int = setting(5, "Generations between adaptations; 0: tasks stay.", low=0)
    micro_batch: int = setting(10, "Drafts written at once in generation 0.", low=1)
    novel_probability: float = setting(
        0.8, "Share of drafts unrelated to their parent.", low=0, high=1
    )
    easy_threshold: float = setting(
        0.5, "A task solved by more of the archive is easy.", low=0, high=1
    )
    hard_threshold: float = setting(
        0.0, "A task solved by less of the archive is hard.", low=0, high=1
    )
    discard_impossible: bool = setting(True, "Drop tasks that nobody solves when adapting.")
    novelty_threshold: float = setting(
        0.7,
        "A draft more similar (cosine) than this to an earlier task is not new.",
        low=0,
        high=1,
    )
    skill_threshold: float = setting(
        0.5, "Score from which a task counts as solved.", low=0, high=1
    )
    instances_per_task: int = setting(1, "Instances of a family that count.", low=1)

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.hard_threshold > self.easy_threshold:
            raise ConfigError(
                f"--hard_threshold={self.hard_threshold} is above "
                f"--easy_threshold={self.easy_threshold}"
            )


@dataclasses.dataclass(frozen=True)
class DecodeConfig:
    """Generation of responses"""

    max_new_tokens: int = setting(512, "Longest response, in tokens.", low=1)
    batch_size: int = setting(64, "Prompts decoded at once, per member.", low=1)
    system_prompt: str = setting(
        "Think step by step. End with one line of the form `Answer: <your answer>`.",
        "System message of every task.",
    )

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclasses.dataclass(frozen=True)
class SandboxConfig:
    """Where task code runs"""

    sandbox_workers: int = setting(2, "Processes that run task code.", low=1, resumable=True)
    sandbox_wall_s: float = setting(3.0, "Wall seconds per scored response.", low=0.05)
    sandbox_memory_mb: int = setting(256, "Memory of task code, in MiB.", low=16)
    allow_unsafe_sandbox: bool = setting(
        False, "Run task code although this machine cannot isolate it."
    )

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclasses.dataclass(frozen=True)
class Config:
    """All of it."""

    run: RunConfig = RunConfig()
    seeds: SeedConfig = SeedConfig()
    evolve: EvolveConfig = EvolveConfig()
    tasks: TaskConfig = TaskConfig()
    decode: DecodeConfig = DecodeConfig()
    sandbox: SandboxConfig = SandboxConfig()

    def __post_init__(self) -> None:
        if self.evolve.max_parents > self.run.population:
            raise ConfigError(
                f"--max_parents={self.evolve.max_parents} is above "
                f"--population={self.run.population}: parents are distinct archive members"
            )

    def settings(self) -> dict[str, Any]:
        """Every setting by flag name, JSON-ready."""
        parts = (getattr(self, field.name) for field in dataclasses.fields(self))
        return {name: value for part in parts for name, value in dataclasses.asdict(part).items()}


def config_of(settings: Mapping[str, Any]) -> Config:
    """The configuration whose `settings` these are; what they lack has its default.

    Raises:
        ConfigError: a value is not valid any more.
    """
    sections: list[Any] = []
    for section in SECTIONS:
        names = {field.name for field in dataclasses.fields(section)} & settings.keys()
        sections.append(section(**{name: settings[name] for name in names}))
    return Config(*sections)


SECTIONS = (RunConfig, SeedConfig, EvolveConfig, TaskConfig, DecodeConfig, SandboxConfig)


def changed_flags(config: Config, saved: Mapping[str, Any]) -> list[str]:
    """Flags on which a run cannot go on: `--name=now (the run has before)`, one each.

    Settings declared `resumable`, and the place of the run and of the seeds, may differ.
    """
    free = {"run_dir", "cache_dir"} | {
        field.name
        for section in SECTIONS
        for field in dataclasses.fields(section)
        if field.metadata["resumable"]
    }
    return [
        f"--{name}={value} (the run has {saved.get(name)})"
        for name, value in config.settings().items()
        if name not in free and saved.get(name) != value
    ]
