"""Every setting of a run, as validated frozen dataclasses. `flags.py` makes the flags from them."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Literal, Self, cast

from acdc_jax.errors import ConfigError
from acdc_jax.evolution.dns import SelectionOptions
from acdc_jax.evolution.merge import MergeOptions
from acdc_jax.evolution.mutate import GaussianNoise, Noise, SVDNoise
from acdc_jax.inference.sampling import Sampling
from acdc_jax.options import check, option, options_of
from acdc_jax.sandbox import Judge, Limits, Sandbox, launchers

LLM_SCIENTISTS = ("openai", "local")
"""Values of `--scientist` that are not registered names."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The run"""

    run_dir: str = option("runs/run", "Directory of the run; an existing run in it is resumed.")
    seed: int = option(
        0, "PRNG seed; the same flags and seed give the same archive.", low=0, high=2**32 - 1
    )
    generations: int = option(
        50, "Generations after the initial one; may grow on a resumed run.", low=0, resumable=True
    )
    init_population: int = option(16, "Members of generation 0, seeds included.", low=1)
    population: int = option(16, "Members that the archive keeps.", low=1)
    children: int = option(8, "Children per generation.", low=1)
    keep_every: int = option(5, "Members of every k-th generation's archive stay on disk.", low=1)
    mesh: str = option(
        "",
        "Device mesh, e.g. pop:4,model:2: four groups of two devices; each group makes and decodes "
        "members of its own, with their weights over its devices. -1 takes the devices that are "
        "left. Default: groups as small as a generation allows.",
        resumable=True,
    )
    device_budget_gb: float = option(
        0.0,
        "10⁹ bytes of each device for archive members, besides the base and the child at hand; 0: "
        "half of what is free beside those, so that the rest is left to decoding.",
        low=0,
        resumable=True,
    )
    host_budget_gb: float = option(
        0.0,
        "10⁹ bytes of the host's memory for archive members; 0: half of what is free (a quarter on "
        "a CPU). What does not fit is on disk only.",
        low=0,
        resumable=True,
    )
    progress: bool = option(True, "Show progress bars.", resumable=True)
    tensorboard: bool = option(
        False, "Write each generation's figures as TensorBoard event files.", resumable=True
    )
    wandb: str = option(
        "", "Weights & Biases project that is told each generation's figures.", resumable=True
    )

    def __post_init__(self) -> None:
        check(self)


@dataclasses.dataclass(frozen=True)
class ProcessConfig:
    """Several processes, and the end of a job"""

    distributed: bool = option(
        False,
        "This is one of several processes of one run, which SLURM, a Cloud TPU pod or Open MPI "
        "started: the environment says which. All need the same flags and one file system for "
        "--run_dir.",
        resumable=True,
    )
    coordinator: str = option(
        "",
        "host:port at which the first process listens, where the environment does not say it; with "
        "--num_processes and --process_id.",
        resumable=True,
    )
    num_processes: int = option(1, "How many processes share the run.", low=1, resumable=True)
    process_id: int = option(0, "Which of them this is, from 0.", low=0, resumable=True)
    heartbeat_timeout_s: float = option(
        60.0,
        "A process that gives no sign of life for so long is dead: the others end, and the same "
        "command goes on from the last commit.",
        low=1,
        resumable=True,
    )
    grace_s: float = option(
        25.0,
        "Seconds that a run has after SIGTERM: it finishes the generation if it can, else abandons "
        "it. A little less than the platform's (SLURM, Kubernetes: 30).",
        low=0,
        resumable=True,
    )
    sigterm_status: int = option(
        0,
        "Exit status of a run that SIGTERM has ended. Kubernetes starts a pod again only where "
        "this is not 0.",
        low=0,
        high=255,
        resumable=True,
    )

    def __post_init__(self) -> None:
        check(self)
        if (self.num_processes > 1) != bool(self.coordinator):
            raise ConfigError(
                "--coordinator and --num_processes belong together: give both or neither"
            )
        if self.distributed and self.coordinator:
            raise ConfigError(
                "--distributed asks the environment, --coordinator says it: give one of them"
            )
        if self.process_id >= self.num_processes:
            raise ConfigError(
                f"--process_id={self.process_id} is not below --num_processes={self.num_processes}"
            )

    def several(self) -> bool:
        """Whether there is more than this process."""
        return self.distributed or self.num_processes > 1


@dataclasses.dataclass(frozen=True)
class SeedConfig:
    """Seed models"""

    seed_models: str = option(
        "",
        "Models of one architecture, comma separated, each a Hugging Face folder or a Hub id such "
        "as owner/model@revision; or the name of a registered set: `tiny` is the quickstart's, "
        "trained once and cached. Required.",
    )
    base_model: str = option(
        "",
        "Folder or Hub id of the base that the seeds were tuned from; a registered set brings its "
        "own.",
    )
    adopt_base_config: bool = option(
        False,
        "Compute seeds whose rotary base or scaling, windows or norm epsilon differ from the "
        "base's with the base's, as their merges are, instead of refusing them (Qwen2.5-Math has "
        "another rotary base than Qwen2.5).",
    )
    cache_dir: str = option(
        "",
        "Where registered seed models are kept, and what was compiled for accelerators; default "
        "$XDG_CACHE_HOME or ~/.cache, then acdc_jax.",
    )


@dataclasses.dataclass(frozen=True)
class EvolveConfig:
    """Merging, mutation and the archive"""

    proposer: Literal["paper", "uniform", "module", "outer", "evosax"] = option(
        "paper",
        "Who proposes merge coefficients: paper (N(1, 0.01), normalised), uniform (U(0, 1.3) per "
        "parent, added), module (the same plus N(0, 0.25) per group of weights), outer (parent "
        "scale × group scale), evosax (a strategy that learns them).",
    )
    granularity: Literal["global", "layer", "module"] = option(
        "global", "Groups of weights with a coefficient of their own."
    )
    merge_method: str = option(
        "linear",
        "Crossover: linear (the paper's), slerp (along great circles), model_stock (towards the "
        "base where parents disagree); of thinned task vectors: ties (the largest entries), "
        "dare_linear (random ones), della_linear (random, large ones likelier); and dare_ties and "
        "della, which then elect a sign per entry, as ties does.",
    )
    normalise: bool = option(
        True,
        "Divide task vectors by the sum of their coefficients, as the paper does; with an elected "
        "sign, by the sum over those who agree.",
    )
    density: float = option(
        1.0, "Share of a task vector's entries that ties, dare and della keep.", low=0, high=1
    )
    epsilon: float = option(
        0.0,
        "della keeps a row's smallest entry with probability density - epsilon, its largest with "
        "density + epsilon.",
        low=0,
    )
    min_parents: int = option(2, "Fewest parents of a child.", low=1)
    max_parents: int = option(2, "Most parents of a child.", low=1)
    strategy: str = option("CMA_ES", "evosax algorithm for --proposer=evosax.")
    strategy_std: float = option(0.25, "Initial step size of the strategy.", low=0)
    strategy_reward: Literal["novelty", "fitness"] = option(
        "novelty", "What the strategy maximises."
    )
    mutation: Literal["none", "svd", "gaussian"] = option(
        "svd", "Mutation of a child after the merge."
    )
    mutation_scale: float = option(0.25, "Standard deviation of the mutation's noise.", low=0)
    mutation_rank: int = option(256, "Singular values that the SVD mutation perturbs.", low=1)
    mutation_relative: bool = option(
        False, "Scale the noise by the singular value (svd) or the weight's spread (gaussian)."
    )
    mutation_decomposition: Literal["auto", "exact", "randomised"] = option(
        "auto",
        "How svd finds singular values: exact, randomised (the leading ones, from products; much "
        "faster), or auto: randomised where a matrix has many more than are perturbed.",
    )
    mutate_embeddings: bool = option(True, "Mutate embeddings and the head too.")
    selection: Literal["novelty", "fitness"] = option(
        "novelty", "Archive update: dominated novelty search, or the fittest."
    )
    neighbours: int = option(3, "Nearest fitter members that novelty averages over.", low=1)
    dominated_score: float = option(999.0, "Novelty of the fittest member.")
    difficulty_weights: bool = option(True, "Weight a skill by how many candidates lack it.")
    denominator: Literal["all", "unsolved"] = option(
        "all", "Novelty is relative to all skills, or to those the other leaves unsolved."
    )
    distance: Literal["unique", "hamming"] = option(
        "unique", "Skills that the other lacks, or Hamming distance."
    )
    gibberish_filter: bool = option(True, "Drop children whose responses are gibberish.")

    def __post_init__(self) -> None:
        check(self)
        if self.min_parents > self.max_parents:
            raise ConfigError(
                f"--min_parents={self.min_parents} is above --max_parents={self.max_parents}"
            )
        if self.distance == "hamming" and self.denominator == "unsolved":
            raise ConfigError(
                "--distance=hamming counts solved tasks too; it needs --denominator=all"
            )
        if self.mutation != "svd" and self.mutation_decomposition != "auto":
            raise ConfigError(
                f"--mutation_decomposition={self.mutation_decomposition} is of --mutation=svd, "
                f"not of --mutation={self.mutation}; drop it"
            )
        try:
            self.to_merge()
            self.to_mutation()
            self.to_selection()
        except ValueError as error:
            raise ConfigError(str(error)) from None

    def to_merge(self) -> MergeOptions:
        """What the crossover's flags say; refuses those that contradict each other."""
        return MergeOptions(self.merge_method, self.normalise, self.density, self.epsilon)

    def to_mutation(self) -> Noise | None:
        """What the mutation flags say."""
        if self.mutation == "none":
            return None
        if self.mutation == "gaussian":
            return GaussianNoise(
                self.mutation_scale, self.mutation_relative, self.mutate_embeddings
            )
        return SVDNoise(
            self.mutation_scale,
            self.mutation_rank,
            self.mutation_relative,
            self.mutate_embeddings,
            cast(Any, self.mutation_decomposition),  # the flag's choices are the type's values
        )

    def to_selection(self) -> SelectionOptions:
        """What the archive flags say."""
        return SelectionOptions(
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

    seed_families: str = option(
        "general",
        "Task families to start from: `general` (knowledge, mathematics, code, logic, language, "
        "instructions, creativity), another registered set (`tiny` is the quickstart's), or a "
        "folder of your own families.",
    )
    held_out: str = option(
        "",
        "Task families that results are measured on, and that neither training nor evolution "
        "sees: a registered set (`tiny` is the quickstart's) or a folder of families. Without "
        "them, results are measured on the run's own tasks. A run that is given others later is "
        "measured again.",
        resumable=True,
    )
    initial_tasks: int = option(300, "Drafts written before the first generation.", low=0)
    max_tasks: int = option(250, "Tasks in the pool at most; the oldest leave.", low=1)
    new_tasks: int = option(150, "Drafts written per adaptation.", low=0)
    task_interval: int = option(5, "Generations between adaptations; 0: tasks stay.", low=0)
    micro_batch: int = option(10, "Drafts written at once in generation 0.", low=1)
    novel_probability: float = option(
        0.8, "Share of drafts unrelated to their parent.", low=0, high=1
    )
    easy_threshold: float = option(
        0.5, "A task solved by more of the archive is easy.", low=0, high=1
    )
    hard_threshold: float = option(
        0.0, "A task solved by less of the archive is hard.", low=0, high=1
    )
    discard_impossible: bool = option(True, "Drop tasks that nobody solves when adapting.")
    novelty_decision: Literal["threshold", "llm"] = option(
        "threshold",
        "Who decides what is new: the similarity alone, or the scientist with the 3 most similar "
        "earlier tasks in view (the paper's way; llm).",
    )
    novelty_threshold: float = option(
        0.7,
        "A draft more similar (cosine) than this to an earlier task is not new; for "
        "--novelty_decision=threshold.",
        low=0,
        high=1,
    )
    embeddings: Literal["ngrams", "openai", "local"] = option(
        "ngrams",
        "What similarity is measured on: ngrams (hashed characters, no model), openai (a server's "
        "/embeddings), local (a checkpoint's hidden states, averaged).",
    )
    embedding_model: str = option(
        "", "The server's name of the embedding model, or its Hugging Face folder."
    )
    embedding_url: str = option(
        "", "Base URL for --embeddings=openai; default --scientist_url.", resumable=True
    )
    skill_threshold: float = option(0.5, "Score from which a task counts as solved.", low=0, high=1)
    instances_per_task: int = option(1, "Instances of a family that count.", low=1)

    def __post_init__(self) -> None:
        check(self)
        if self.hard_threshold > self.easy_threshold:
            raise ConfigError(
                f"--hard_threshold={self.hard_threshold} is above "
                f"--easy_threshold={self.easy_threshold}"
            )
        if (self.embeddings == "ngrams") != (not self.embedding_model):
            raise ConfigError(
                "--embedding_model belongs to --embeddings=openai or local: give both or neither"
            )
        if self.embedding_url and self.embeddings != "openai":
            raise ConfigError("--embedding_url needs --embeddings=openai")


@dataclasses.dataclass(frozen=True)
class ScientistConfig:
    """The scientist"""

    scientist: str = option(
        "openai",
        "Who writes tasks: openai (any OpenAI-compatible server: vLLM, SGLang, Ollama, a hosted "
        "API; the key comes from OPENAI_API_KEY), local (a checkpoint on the members' devices or "
        "on its own), or a registered name: `procedural` is the quickstart's grammar, without an "
        "LLM. An LLM also judges answers and recognises gibberish.",
    )
    scientist_model: str = option("", "The server's name of the model, or its Hugging Face folder.")
    scientist_url: str = option(
        "",
        "Base URL of the server, e.g. http://localhost:8000/v1; default OpenAI's own.",
        resumable=True,
    )
    scientist_concurrency: int = option(
        64, "Requests in flight at the server at most.", low=1, resumable=True
    )
    scientist_timeout_s: float = option(
        120.0, "Seconds until a request is given up and made again.", low=0.01, resumable=True
    )
    scientist_retries: int = option(
        6,
        "Times that a failed request is made again, after growing pauses or what the server asks.",
        low=0,
        resumable=True,
    )
    scientist_temperature: float = option(
        0.7, "Sampling temperature of drafts; decisions are greedy.", low=0
    )
    scientist_top_p: float = option(0.95, "Nucleus of the sampling of drafts.", low=0.01, high=1)
    scientist_max_tokens: int = option(2000, "Longest answer of the scientist, in tokens.", low=1)
    scientist_devices: int = option(
        0,
        "For --scientist=local: the last so many devices are its own, the members get the others; "
        "0: it is spread over the members' devices, if a member takes only one.",
        low=0,
    )
    reflections: int = option(
        3, "Rounds in which an LLM may improve a draft, its result in view.", low=0
    )
    adapt_ahead: bool = option(
        False,
        "Write the tasks of an adaptation while its generation's children decode (openai): they "
        "are then adapted to the archive as it was before that generation.",
    )

    def __post_init__(self) -> None:
        check(self)
        if self.adapt_ahead and self.scientist != "openai":
            raise ConfigError(
                "--adapt_ahead needs --scientist=openai: others compute where the children decode"
            )
        if self.scientist_devices and self.scientist != "local":
            raise ConfigError("--scientist_devices needs --scientist=local")
        if self.scientist_url and self.scientist != "openai":
            raise ConfigError("--scientist_url needs --scientist=openai")


@dataclasses.dataclass(frozen=True)
class DecodeConfig:
    """Generation of responses"""

    max_new_tokens: int = option(512, "Longest response, in tokens.", low=1)
    batch_size: int = option(
        128, "Prompts decoded at once, per member; fewer where memory ends.", low=1
    )
    system_prompt: str = option(
        "Think step by step. End with one line of the form `Answer: <your answer>`.",
        "System message of every task.",
    )
    chat_template: str = option(
        "", "File with a Jinja chat template; default: the one of the first seed's tokenizer."
    )
    thinking: bool = option(
        False, "Ask for thoughts before the answer, where the chat template has the choice (Qwen3)."
    )
    stop_strings: str = option(
        "",
        r"Comma-separated strings that end a response, as stop tokens do; \n is a newline, \, a "
        "comma in a string.",
    )

    def __post_init__(self) -> None:
        check(self)

    def stop_texts(self) -> tuple[str, ...]:
        """The strings of `stop_strings`."""
        found = re.split(r"(?<!\\),", self.stop_strings)
        return tuple(one.replace("\\,", ",").replace("\\n", "\n") for one in found if one)


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """Samples of one model, which task forces are compared with"""

    temperature: float = option(0.7, "Divides the logits.", low=0.01)
    top_k: int = option(0, "Only the so many most likely tokens; 0: all.", low=0)
    top_p: float = option(
        1.0, "Only the most likely tokens that together have this probability.", low=0.01, high=1
    )
    min_p: float = option(
        0.0,
        "Only tokens at least this share as likely as the most likely one; 0: all.",
        low=0,
        high=1,
    )

    def __post_init__(self) -> None:
        check(self)

    def to_sampling(self) -> Sampling:
        """What the flags say; they apply in the order in which they are declared."""
        return Sampling(self.temperature, top_k=self.top_k, top_p=self.top_p, min_p=self.min_p)


@dataclasses.dataclass(frozen=True)
class SandboxConfig:
    """Where task code runs"""

    sandbox_workers: int = option(2, "Processes that run task code.", low=1, resumable=True)
    sandbox_wall_s: float = option(3.0, "Wall seconds per scored response.", low=0.05)
    sandbox_memory_mb: int = option(256, "Memory of task code, in MiB.", low=16)
    sandbox_launcher: str = option(
        "",
        "Program that puts one more wall around task code: bubblewrap, or apptainer, podman, "
        "docker or runsc as NAME:IMAGE; empty: none. `acdc sandbox check` tries it.",
        resumable=True,
    )
    allow_unsafe_sandbox: bool = option(
        False, "Run task code although this machine cannot isolate it."
    )

    def __post_init__(self) -> None:
        check(self)
        launchers.parse(self.sandbox_launcher)
        if self.sandbox_launcher and self.allow_unsafe_sandbox:
            raise ConfigError(
                "--sandbox_launcher asks for more isolation, --allow_unsafe_sandbox "
                "for none; drop one of them"
            )

    def open(self, judge: Judge | None = None) -> Sandbox:
        """The sandbox that the flags describe.

        Raises:
            SandboxError: this machine cannot give it; the message says why.
        """
        return Sandbox(
            self.sandbox_workers,
            Limits(wall_s=self.sandbox_wall_s, memory_mb=self.sandbox_memory_mb),
            self.allow_unsafe_sandbox,
            judge,
            launcher=launchers.parse(self.sandbox_launcher),
        )


@dataclasses.dataclass(frozen=True)
class Config:
    """All of it."""

    run: RunConfig = RunConfig()
    processes: ProcessConfig = ProcessConfig()
    seeds: SeedConfig = SeedConfig()
    evolve: EvolveConfig = EvolveConfig()
    tasks: TaskConfig = TaskConfig()
    scientist: ScientistConfig = ScientistConfig()
    decode: DecodeConfig = DecodeConfig()
    samples: SamplingConfig = SamplingConfig()
    sandbox: SandboxConfig = SandboxConfig()

    def __post_init__(self) -> None:
        if self.evolve.max_parents > self.run.population:
            raise ConfigError(
                f"--max_parents={self.evolve.max_parents} is above "
                f"--population={self.run.population}: parents are distinct archive members"
            )
        if self.processes.several() and "local" in (
            self.scientist.scientist,
            self.tasks.embeddings,
        ):
            raise ConfigError(
                "--scientist=local and --embeddings=local compute in one process: with several, "
                "serve the model and use --scientist=openai"
            )

    def shared_settings(self) -> dict[str, Any]:
        """The settings that are not about this process, by flag name."""
        own = ("distributed", "coordinator", "num_processes", "process_id")
        return {name: value for name, value in self.settings().items() if name not in own}

    def settings(self) -> dict[str, Any]:
        """Every setting by flag name, JSON-ready."""
        parts = (getattr(self, field.name) for field in dataclasses.fields(self))
        return {name: value for part in parts for name, value in dataclasses.asdict(part).items()}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Reads `settings`'s dictionary, such as a manifest's flags; newer flags have defaults."""
        sections: list[Any] = [
            kind(
                **{
                    field.name: settings.get(field.name, field.default)
                    for field in dataclasses.fields(kind)
                }
            )
            for kind in SECTIONS
        ]
        return cls(*sections)


SECTIONS = (
    RunConfig,
    ProcessConfig,
    SeedConfig,
    EvolveConfig,
    TaskConfig,
    ScientistConfig,
    DecodeConfig,
    SamplingConfig,
    SandboxConfig,
)


def free_flags() -> set[str]:
    """Flags that may change on a run: those declared `resumable`, its place and the seeds'."""
    return {"run_dir", "cache_dir"} | {
        option.name for kind in SECTIONS for option in options_of(kind) if option.resumable
    }


def changed_flags(config: Config, saved: Mapping[str, Any]) -> list[str]:
    """Flags on which a run cannot go on: `--name=now (the run has before)`, one each.

    Those of `free_flags` may differ.
    """
    defaults = Config().settings()  # how a run behaved that had not heard of a flag
    free = free_flags()
    return [
        f"--{name}={value} (the run has {saved.get(name, defaults[name])})"
        for name, value in config.settings().items()
        if name not in free and saved.get(name, defaults[name]) != value
    ]
