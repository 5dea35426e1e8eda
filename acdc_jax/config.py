"""Every option of a run: `Config` composes the options of the algorithms and names their flags."""

import dataclasses
import re
import typing
from collections.abc import Mapping
from typing import Any, Literal, Self

from acdc_jax import flags
from acdc_jax.errors import AcdcError, ConfigError
from acdc_jax.evolution.dns import SelectionOptions
from acdc_jax.evolution.evosax_strategy import StrategyOptions
from acdc_jax.evolution.merge import MergeOptions
from acdc_jax.evolution.mutate import MutationOptions
from acdc_jax.evolution.propose import ProposerOptions
from acdc_jax.flags import section
from acdc_jax.inference.sampling import Sampling
from acdc_jax.options import Option, OptionError, check, not_none, option
from acdc_jax.sandbox import IsolationError, Judge, Limits, Sandbox, launchers

LLM_SCIENTISTS = ("openai", "local")
"""Values of `--scientist` that are not registered names."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The run"""

    run_dir: str = option(
        "runs/run", "Directory of the run; an existing run in it is resumed.", resumable=True
    )
    seed: int = option(
        0, "PRNG seed; the same flags and seed give the same archive.", low=0, high=2**32 - 1
    )
    generations: int = option(
        50, "Generations after the initial one; may grow on a resumed run.", low=0, resumable=True
    )
    init_population: int = option(16, "Members of generation 0, seeds included.", low=1)
    population: int = option(16, "Members that the archive keeps.", low=1)
    children: int = option(8, "Children per generation.", low=1)
    gibberish_filter: bool = option(True, "Drop children whose responses are gibberish.")
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
        resumable=True,
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
        return Sampling(
            self.temperature, top_k=self.top_k or None, top_p=self.top_p, min_p=self.min_p
        )


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
        try:
            launchers.parse(self.sandbox_launcher)
        except ValueError as error:
            raise ConfigError(f"--sandbox_launcher: {error}") from None
        if self.sandbox_launcher and self.allow_unsafe_sandbox:
            raise ConfigError(
                "--sandbox_launcher asks for more isolation, --allow_unsafe_sandbox "
                "for none; drop one of them"
            )

    def open(self, judge: Judge | None = None) -> Sandbox:
        """Open the sandbox that the flags describe.

        Raises:
            AcdcError: This machine cannot isolate task code.
            SandboxError: The sandbox does not start.
        """
        try:
            return Sandbox(
                self.sandbox_workers,
                Limits(wall_s=self.sandbox_wall_s, memory_mb=self.sandbox_memory_mb),
                self.allow_unsafe_sandbox,
                judge,
                launcher=launchers.parse(self.sandbox_launcher),
            )
        except IsolationError as error:
            raise AcdcError(
                f"{error} (--sandbox_launcher), or accept the risk with --allow_unsafe_sandbox"
            ) from None


@dataclasses.dataclass(frozen=True)
class Config:
    """Every option of a run."""

    run: RunConfig = section(RunConfig(), "The run")
    processes: ProcessConfig = section(ProcessConfig(), "Several processes, and the end of a job")
    seeds: SeedConfig = section(SeedConfig(), "Seed models")
    proposer: ProposerOptions = section(
        ProposerOptions(), "Parents and merge coefficients", names={"kind": "proposer"}
    )
    strategy: StrategyOptions = section(
        StrategyOptions(),
        "Evolution strategy",
        names={"name": "strategy"},
        prefix="strategy_",
    )
    merge: MergeOptions = section(MergeOptions(), "Merging", names={"method": "merge_method"})
    mutation: MutationOptions = section(
        MutationOptions(),
        "Mutation",
        names={"kind": "mutation", "embeddings": "mutate_embeddings"},
        prefix="mutation_",
    )
    selection: SelectionOptions = section(
        SelectionOptions(),
        "Archive",
        names={"by": "selection", "k": "neighbours", "weighted": "difficulty_weights"},
    )
    tasks: TaskConfig = section(TaskConfig(), "Tasks")
    scientist: ScientistConfig = section(ScientistConfig(), "The scientist")
    decode: DecodeConfig = section(DecodeConfig(), "Generation of responses")
    samples: SamplingConfig = section(
        SamplingConfig(), "Samples of one model, which task forces are compared with"
    )
    sandbox: SandboxConfig = section(SandboxConfig(), "Where task code runs")

    def __post_init__(self) -> None:
        if self.proposer.max_parents > self.run.population:
            raise OptionError(
                self,
                "proposer.max_parents",
                "must not exceed {run.population}: parents are distinct archive members",
            )
        local = "local" in (self.scientist.scientist, self.tasks.embeddings)
        if self.processes.several() and local:
            raise ConfigError(
                "--scientist=local and --embeddings=local compute in one process: with several, "
                "serve the model and use --scientist=openai"
            )

    def settings(self) -> dict[str, Any]:
        """Return every option by the name of its flag, ready for JSON."""
        return {
            name: _to_json(getattr(getattr(self, field), declared.name))
            for field, part in flags.sections_of(type(self)).items()
            for name, declared in part.options().items()
        }

    def shared_settings(self) -> dict[str, Any]:
        """Return the settings that all processes of a run share."""
        own = ("distributed", "coordinator", "num_processes", "process_id")
        return {name: value for name, value in self.settings().items() if name not in own}

    def flag_lines(self) -> list[str]:
        """Return the lines of a flag file with these settings, without those of one process."""
        shared, sections = self.shared_settings(), flags.sections_of(type(self)).values()
        names = [name for part in sections for name in part.flags() if name in shared]
        return flags.file_lines({name: shared[name] for name in names})

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Return the configuration of a manifest's settings; what they lack has its default."""
        settings = _upgrade(settings)
        parts = {}
        for field, part in flags.sections_of(cls).items():
            values = {
                declared.name: _from_json(settings.get(name, declared.default))
                for name, declared in part.options().items()
            }
            parts[field] = part.kind(**values)
        return cls(**parts)


def _to_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _from_json(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _upgrade(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run of any version as this version writes them."""
    upgraded = dict(settings)
    for name, declared in _options().items():
        value = settings.get(name)
        if value == "" and not_none(declared.type) is not declared.type:
            upgraded[name] = None
        elif isinstance(value, str) and typing.get_origin(declared.type) is tuple:
            upgraded[name] = list(flags.read(value, declared.type))
    if settings.get("mutation") == "none":
        upgraded["mutation"] = None
    return upgraded


def _options() -> dict[str, Option]:
    """Return name → option of all sections."""
    sections = flags.sections_of(Config).values()
    return {name: declared for part in sections for name, declared in part.options().items()}


def free_flags() -> set[str]:
    """Return the flags that may change when a run resumes."""
    return {name for name, declared in _options().items() if declared.resumable}


def changed_flags(config: Config, saved: Mapping[str, Any]) -> list[str]:
    """Return the flags that differ from those of a run and may not change.

    Args:
        config: The new settings.
        saved: The run's settings. A flag that they lack had its default.

    Returns:
        `--name=new (the run has old)`, one for each flag.
    """
    before = Config().settings() | _upgrade(saved)
    free = free_flags()
    return [
        f"--{name}={flags.write(value)} (the run has {flags.write(before[name])})"
        for name, value in config.settings().items()
        if name not in free and before[name] != value
    ]
