"""Options of a run as a whole: sizes, places, seed models, processes and the sandbox."""

import re
from dataclasses import dataclass
from typing import Literal

from acdc_jax.errors import AcdcError
from acdc_jax.options import OptionError, check, option
from acdc_jax.sandbox import IsolationError, Judge, Limits, Sandbox, launchers
from acdc_jax.sandbox.cpus import default_workers


def _is_address(text: str) -> bool:
    """Return whether a text is host:port; an IPv6 address is in brackets."""
    match = re.fullmatch(r"(?:\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\]]+):([0-9]{1,5})", text)
    return match is not None and 0 < int(match[1]) < 2**16


@dataclass(frozen=True)
class RunOptions:
    """Sizes of Algorithm 1, and where and how a run is computed.

    Attributes:
        run_dir: Directory of the run.
        seed: PRNG seed.
        generations: Generations after generation 0.
        init_population: Members of generation 0, seeds included.
        population: Members that the archive keeps.
        children: Children of each generation.
        gibberish_filter: Whether children that write gibberish are dropped.
        keep_every: The archive of every k-th generation stays on disk.
        mesh: Device mesh, such as "pop:4,model:2"; None chooses the smallest groups that fit.
        device_budget_gb: Memory of each device for members; None chooses.
        host_budget_gb: Memory of the host for members; None chooses.
        cache_dir: Folder for registered seeds and compiled programs; None is ~/.cache/acdc_jax.
        progress: Whether progress bars are shown.
        tensorboard: Whether TensorBoard event files are written.
        wandb: Weights & Biases project, or None.
        profile: Folder for a profiler trace of one generation, or None.
    """

    run_dir: str = option(
        "runs/run",
        "Directory of the run. If it holds a run, that run resumes.",
        resumable=True,
        path=True,
    )
    seed: int = option(
        0, "PRNG seed. The same flags and seed give the same archive.", low=0, high=2**32 - 1
    )
    generations: int = option(50, "Generations after generation 0.", low=0, resumable=True)
    init_population: int = option(16, "Members of generation 0, seeds included.", low=1)
    population: int = option(16, "Members that the archive keeps.", low=1)
    children: int = option(8, "Children of each generation.", low=1)
    gibberish_filter: bool = option(
        True, "Drop children whose responses are gibberish.", resumable=True
    )
    keep_every: int = option(
        5, "Keep the members of every k-th generation's archive on disk.", low=1
    )
    mesh: str | None = option(
        None,
        "Device mesh: pop:4,model:2 is four groups of two devices. Each group breeds and decodes "
        "its own members, with their weights spread over its devices. -1 stands for the remaining "
        "devices. none: the smallest groups that hold a member.",
        resumable=True,
    )
    device_budget_gb: float | None = option(
        None,
        "Memory of each device for archive members, in 10⁹ bytes, besides the base and one child. "
        "none: half of the free memory; decoding uses the rest.",
        above=0,
        resumable=True,
    )
    host_budget_gb: float | None = option(
        None,
        "Memory of the host for archive members, in 10⁹ bytes; other members are on disk only. "
        "none: half of the free memory (a quarter on a CPU).",
        above=0,
        resumable=True,
    )
    cache_dir: str | None = option(
        None,
        "Folder for registered seed models and compiled programs. none: acdc_jax in "
        "$XDG_CACHE_HOME or ~/.cache.",
        resumable=True,
        path=True,
    )
    progress: bool = option(True, "Show progress bars.", resumable=True)
    tensorboard: bool = option(
        False, "Write each generation's metrics as TensorBoard event files.", resumable=True
    )
    wandb: str | None = option(
        None, "Weights & Biases project that receives each generation's metrics.", resumable=True
    )
    profile: str | None = option(
        None,
        "Folder for a jax.profiler trace of one generation: the second one after the start, which "
        "compiles nothing any more, or else the last.",
        resumable=True,
        path=True,
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class SeedOptions:
    """The models that a run starts from.

    Attributes:
        seed_models: Names of models of one architecture, as `find_model` takes them, or of LoRA
            adapters of the base; or one registered name.
        base_model: Name of the model that the seeds were tuned from; None for a registered set,
            which brings its own.
        adopt_base_config: Whether seeds may differ from the base in what only changes how they are
            computed.
        dtype: Dtype of all members; None: the base's.
    """

    seed_models: tuple[str, ...] = option(
        (),
        "Models of one architecture, each a Hugging Face folder, a GGUF file, or a Hub id such as "
        "owner/model@revision or owner/model/file.gguf, alone or with a LoRA adapter by PEFT: "
        "BASE+ADAPTER; an adapter alone is applied to --base_model. Or the name of a registered "
        "set (tiny is the quickstart's, trained once and cached). Required.",
        path=True,
    )
    base_model: str | None = option(
        None,
        "Folder, GGUF file or Hub id of the base that the seeds were tuned from. A registered set "
        "brings its own.",
        path=True,
    )
    adopt_base_config: bool = option(
        False,
        "Accept seeds whose rotary base or scaling, window or norm epsilon differs from the base's "
        "(such as Qwen2.5-Math with base Qwen2.5). As members they are computed with the base's "
        "values, like their merges; as baselines of the final table with their own.",
    )
    dtype: Literal["bfloat16", "float16", "float32"] | None = option(
        None, "Dtype of all members; models in another one are cast. none: the base's."
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class ProcessOptions:
    """The processes that share a run, and how a run ends on SIGTERM.

    Attributes:
        distributed: Whether JAX finds the other processes in the environment.
        coordinator: host:port of the first process; None without several processes, or if the
            environment names it.
        num_processes: Number of processes.
        process_id: Number of this process, from 0.
        heartbeat_timeout_s: Silence after which a process counts as dead.
        grace_s: Seconds between SIGTERM and the end.
        sigterm_status: Exit status after SIGTERM.
    """

    distributed: bool = option(
        False,
        "This is one of several processes that SLURM, a Cloud TPU pod or Open MPI started; their "
        "environment names them. All processes need the same flags, and one file system that holds "
        "--run_dir.",
        resumable=True,
    )
    coordinator: str | None = option(
        None,
        "host:port at which the first process listens, with --num_processes and --process_id. Not "
        "needed with --distributed.",
        resumable=True,
    )
    num_processes: int = option(1, "Number of processes that share the run.", low=1, resumable=True)
    process_id: int = option(0, "Number of this process, from 0.", low=0, resumable=True)
    heartbeat_timeout_s: float = option(
        60.0,
        "Seconds of silence after which a process counts as dead. The others then stop, and "
        "the same command resumes from the last commit.",
        low=1,
        resumable=True,
    )
    grace_s: float = option(
        25.0,
        "Seconds that a run has after SIGTERM. It finishes the current generation if it can, and "
        "abandons it otherwise. Choose a little less than the platform's limit (SLURM and "
        "Kubernetes: 30).",
        low=0,
        resumable=True,
    )
    sigterm_status: int = option(
        0,
        "Exit status of a run that SIGTERM ended. Kubernetes restarts a pod only if it is not 0.",
        low=0,
        high=255,
        resumable=True,
    )

    def __post_init__(self) -> None:
        check(self)
        if self.num_processes > 1 and self.coordinator is None:
            rule = "needs --coordinator, the first process's host:port"
            raise OptionError(self, "num_processes", rule)
        if self.num_processes == 1 and self.coordinator is not None:
            rule = "needs --num_processes of 2 or more, in each of them"
            raise OptionError(self, "coordinator", rule)
        if self.coordinator is not None and not _is_address(self.coordinator):
            raise OptionError(self, "coordinator", "must be host:port, such as 10.0.0.1:8476")
        if self.distributed and self.coordinator is not None:
            raise OptionError(self, "coordinator", "must be none with {distributed}")
        if self.process_id >= self.num_processes:
            raise OptionError(self, "process_id", "must be below {num_processes}")

    @property
    def several(self) -> bool:
        """Whether more than one process shares the run."""
        return self.distributed or self.num_processes > 1


@dataclass(frozen=True)
class SandboxOptions:
    """Where task code runs, and what it may use.

    Attributes:
        workers: Processes that run task code; None: as many as this process has CPUs.
        cpu_s: CPU seconds for each scored response.
        memory_mb: Memory of task code, in MiB.
        launcher: Program that adds another layer of isolation, or None.
        allow_unsafe: Whether task code runs if this machine cannot isolate it.
    """

    workers: int | None = option(
        None,
        "Processes that run task code. none: one per CPU that this process may use (affinity and "
        "CPU quota), at most 64.",
        low=1,
        resumable=True,
    )
    cpu_s: float = option(
        2.0,
        "CPU seconds that scoring one response may take. Time in which the machine is busy with "
        "something else does not count.",
        low=0.05,
    )
    memory_mb: int = option(256, "Memory of task code, in MiB.", low=16)
    launcher: str | None = option(
        None,
        "Program that adds another layer of isolation around task code: bubblewrap; or apptainer, "
        "podman, docker or runsc as NAME:IMAGE. `acdc sandbox check` tests it.",
        resumable=True,
    )
    allow_unsafe: bool = option(
        False, "Run task code even if this machine cannot isolate it.", resumable=True
    )

    def __post_init__(self) -> None:
        check(self)
        if self.launcher is not None:
            try:
                launchers.parse(self.launcher)
            except ValueError as error:
                rule = str(error).partition(": ")[2]
                raise OptionError(self, "launcher", rule) from None
            if self.allow_unsafe:
                raise OptionError(self, "launcher", "must be none with {allow_unsafe}")

    @property
    def worker_count(self) -> int:
        """The number of processes that run task code."""
        return self.workers or default_workers()

    def open(self, judge: Judge | None = None) -> Sandbox:
        """Open the sandbox.

        Args:
            judge: What task code calls as `eval_with_llm_judge`.

        Raises:
            AcdcError: This machine cannot isolate task code.
            SandboxError: The sandbox does not start.
        """
        try:
            return Sandbox(
                self.worker_count,
                Limits(cpu_s=self.cpu_s, memory_mb=self.memory_mb),
                self.allow_unsafe,
                judge,
                launcher=None if self.launcher is None else launchers.parse(self.launcher),
            )
        except IsolationError as error:
            raise AcdcError(
                f"{error} (--sandbox_launcher), or accept the risk with --allow_unsafe_sandbox"
            ) from None
