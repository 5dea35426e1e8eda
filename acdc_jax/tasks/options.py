"""Options of the task pool, of the novelty filter and of the scientist."""

from dataclasses import dataclass
from typing import Literal

from acdc_jax.options import OptionError, check, option
from acdc_jax.tasks.gym.catalogue import choose_families

LLM_SCIENTISTS = ("openai", "local")
"""Kinds of scientist that are an LLM; other kinds are registered names."""

LimboRule = Literal["one_failed", "all_failed", "off"]
"""When a parent that an easier or harder child replaced returns to the pool."""

NoveltyScope = Literal["new_ideas", "all", "none"]
"""Which drafts must be new: all but easier and harder children, all, or none."""


@dataclass(frozen=True)
class TaskPoolOptions:
    """The pool of tasks: where it starts, and how it adapts (paper §3.2, §3.3).

    Attributes:
        seed_families: Registered set or folder of the first task families.
        gym_families: Families and categories of reasoning-gym that the sets and the scientist `gym`
            use; with a minus, those that they do not use. Empty: all.
        held_out: Registered sets and folders of the families that results are measured on, or
            None.
        active_seed_families: Whether seed families are active tasks, and not only parents.
        initial_tasks: Valid drafts for generation 0.
        max_tasks: Most active tasks.
        new_tasks: Drafts of each adaptation.
        task_interval: Generations between adaptations; None keeps the first tasks.
        micro_batch: Drafts for generation 0 whose parents are drawn together.
        novel_probability: Probability that a draft of generation 0 is unrelated to its parent.
        task_parents: How an adaptation draws the parents of its drafts.
        medium_novel_probability: Probability that a medium task gets a novel child, not a related
            one.
        easy_novel_probability: Probability that an easy task gets a novel child, not a harder one.
        limbo: When a replaced parent returns.
        easy_threshold: A task is easy if a larger share of the archive solves it.
        hard_threshold: A task is hard if a smaller share of the archive solves it.
        discard_impossible: Whether adapting drops tasks that no member solves.
        skill_threshold: Score from which a task counts as solved.
        instances_per_task: Instances of a family that count.
        judged_tasks: Whether tasks may ask an LLM to judge answers.
    """

    seed_families: str = option(
        "general",
        "Task families to start from: general (knowledge, mathematics, code, logic, language, "
        "instructions, creativity), gym (reasoning-gym's), another registered set (tiny is the "
        "quickstart's), or a folder of your own families.",
        path=True,
    )
    gym_families: tuple[str, ...] = option(
        (),
        "Categories (words, logic, …) and families (gcd, maze, …) of reasoning-gym that "
        "--scientist, --seed_families and --held_out use, if they name gym; a minus excludes: "
        "words,logic,-aiw. The PRNG seed divides them between the pool and the held-out tasks. "
        "Default: all.",
    )
    held_out: tuple[str, ...] | None = option(
        None,
        "Task families that results are measured on and that neither training nor evolution sees: "
        "gym:instances (other questions of the run's families of reasoning-gym), gym:families "
        "(other families), tiny (the quickstart's), or a folder. Each of several sets gets a table "
        "of its own. none: the run's own tasks. With other sets, a finished run is measured again.",
        resumable=True,
        path=True,
    )
    active_seed_families: bool = option(
        False,
        "Seed families are tasks of the first pool, and not only parents of its first drafts.",
    )
    initial_tasks: int = option(
        300,
        "Valid drafts for generation 0, of which the new ones become tasks. Writing ends early "
        "after three times as many drafts, or when the pool is full.",
        low=0,
    )
    max_tasks: int = option(250, "Largest number of active tasks; the oldest leave first.", low=1)
    new_tasks: int = option(150, "Drafts written in each adaptation.", low=0)
    task_interval: int | None = option(
        5, "Generations between adaptations. none: the first tasks stay.", low=1
    )
    micro_batch: int = option(10, "Drafts written at once for generation 0.", low=1)
    novel_probability: float = option(
        0.8,
        "Probability that a draft for generation 0 is unrelated to its parent.",
        low=0,
        high=1,
    )
    task_parents: Literal["uniform", "biased"] = option(
        "uniform",
        "How an adaptation draws the tasks to start from: uniform, or biased (impossible ones, "
        "then easy and hard ones, then others).",
    )
    medium_novel_probability: float = option(
        0.2,
        "Probability that a task that is neither easy nor hard gets an unrelated child; otherwise "
        "it gets a related one.",
        low=0,
        high=1,
    )
    easy_novel_probability: float = option(
        0.0,
        "Probability that an easy task gets an unrelated child; otherwise it gets a harder one.",
        low=0,
        high=1,
    )
    limbo: LimboRule = option(
        "one_failed",
        "When a parent that an easier or harder child replaced returns to the pool: one_failed "
        "(one child is rejected, or no member solves it, now or later), all_failed (no member "
        "solves any child at the next adaptation) or off (parents stay beside their children).",
    )
    easy_threshold: float = option(
        0.5, "A task is easy if a larger share of the archive solves it.", low=0, high=1
    )
    hard_threshold: float = option(
        0.0, "A task is hard if a smaller share of the archive solves it.", low=0, high=1
    )
    discard_impossible: bool = option(True, "Drop tasks that no member solves when adapting.")
    skill_threshold: float = option(0.5, "Score from which a task counts as solved.", low=0, high=1)
    instances_per_task: int = option(1, "Instances of a family that count.", low=1)
    judged_tasks: bool = option(
        True,
        "Tasks may ask an LLM to judge answers. Otherwise such drafts and seed families are left "
        "out, and every score is computed.",
    )

    def __post_init__(self) -> None:
        check(self)
        try:
            choose_families(self.gym_families)
        except ValueError as error:
            raise OptionError(self, "gym_families", str(error)) from None
        if self.held_out is not None and len(set(self.held_out)) < len(self.held_out):
            raise OptionError(self, "held_out", "must not repeat a set")
        if self.hard_threshold > self.easy_threshold:
            raise OptionError(self, "hard_threshold", "must not exceed {easy_threshold}")
        if self.initial_tasks == 0 and not self.active_seed_families:
            raise OptionError(
                self,
                "initial_tasks",
                "must be positive with {active_seed_families}: no task is left",
            )


@dataclass(frozen=True)
class NoveltyOptions:
    """Which drafts are new (paper §3.3).

    Attributes:
        applies_to: Which drafts must be new.
        decision: What decides.
        threshold: Largest similarity of a new draft; see `gate`, for "llm".
        embeddings: What similarity is measured on.
        embedding_model: Name or folder of the embedding model; None for "ngrams".
        embedding_url: Base URL of the embedding server; None is the scientist's.
    """

    applies_to: NoveltyScope = option(
        "new_ideas",
        "Which drafts must be new: new_ideas (all but easier and harder children, which resemble "
        "their parents), all, or none (no filter).",
    )
    decision: Literal["threshold", "llm"] = option(
        "threshold",
        "What decides whether a draft is new: threshold (its similarity to earlier tasks) or llm "
        "(the scientist sees the 3 most similar tasks; the paper's).",
    )
    threshold: float = option(
        0.7,
        "A draft is not new if its cosine similarity to an earlier task is larger. With the "
        "decision llm and an embedding model: adaptations ask only about such drafts.",
        low=0,
        high=1,
    )
    embeddings: Literal["ngrams", "openai", "local"] = option(
        "ngrams",
        "What similarity is measured on: ngrams (hashed character n-grams, no model), openai (a "
        "server's /embeddings) or local (mean hidden states of a checkpoint).",
    )
    embedding_model: str | None = option(
        None,
        "Embedding model: its name at the server, or a Hugging Face folder or Hub id.",
        resumable=True,
        path=True,
    )
    embedding_url: str | None = option(
        None, "Base URL of the embedding server. none: the scientist's.", resumable=True
    )

    def __post_init__(self) -> None:
        check(self)
        if (self.embeddings == "ngrams") != (self.embedding_model is None):
            rule = "is needed" if self.embedding_model is None else "must be none"
            raise OptionError(self, "embedding_model", f"{rule} for {{embeddings}}")
        if self.embedding_url is not None and self.embeddings != "openai":
            raise OptionError(self, "embedding_url", "must be none for {embeddings}")

    @property
    def gate(self) -> float | None:
        """Similarity from which the scientist sees a task; None for all. N-grams have no gate."""
        return None if self.embeddings == "ngrams" else self.threshold or None


@dataclass(frozen=True)
class ScientistOptions:
    """The scientist that writes tasks.

    Attributes:
        kind: "openai", "local", or a registered name.
        model: Name or folder of the LLM; None for a registered scientist.
        url: Base URL of the server; None is OpenAI's.
        concurrency: Most requests at once.
        timeout_s: Seconds until a request is retried.
        retries: Retries of each request.
        temperature: Sampling temperature of drafts.
        top_p: Nucleus of the sampling of drafts.
        max_tokens: Longest answer, in tokens.
        devices: Devices of a local scientist; None shares the members'.
        reflections: Rounds of improving a draft.
        adapt_ahead: Whether an adaptation's tasks are written while its children decode.
    """

    kind: str = option(
        "openai",
        "What writes tasks: openai (any OpenAI-compatible server: vLLM, SGLang, Ollama, a hosted "
        "API; the key is read from OPENAI_API_KEY), local (a checkpoint on this machine), or a "
        "registered name, without an LLM: gym (questions of reasoning-gym with levels of "
        "difficulty) or procedural (the quickstart's grammar). An LLM also judges answers and "
        "recognises gibberish.",
    )
    model: str | None = option(
        None,
        "LLM of the scientist: its name at the server, or a Hugging Face folder, GGUF file or Hub "
        "id.",
        resumable=True,
        path=True,
    )
    url: str | None = option(
        None,
        "Base URL of the server, such as http://localhost:8000/v1. none: OpenAI's.",
        resumable=True,
    )
    concurrency: int = option(
        64, "Largest number of concurrent requests to the server.", low=1, resumable=True
    )
    timeout_s: float = option(
        120.0, "Seconds until a request is abandoned and retried.", low=0.01, resumable=True
    )
    retries: int = option(
        6,
        "Retries of each request, with exponential backoff or the server's Retry-After.",
        low=0,
        resumable=True,
    )
    temperature: float = option(0.7, "Sampling temperature of drafts; decisions are greedy.", low=0)
    top_p: float = option(0.95, "Nucleus of the sampling of drafts.", above=0, high=1)
    max_tokens: int = option(
        2000, "Longest answer of the scientist, in tokens.", low=1, resumable=True
    )
    devices: int | None = option(
        None,
        "Reserve the last N devices for a local scientist. none: it shares the members' devices, "
        "which needs members of one device each.",
        low=1,
        resumable=True,
    )
    reflections: int = option(
        3, "Rounds in which an LLM may improve a draft after seeing its result.", low=0
    )
    adapt_ahead: bool = option(
        False,
        "Write the tasks of an adaptation while its generation's children decode. The tasks are "
        "then adapted to the archive before that generation.",
    )

    def __post_init__(self) -> None:
        check(self)
        if self.adapt_ahead and self.kind != "openai":
            raise OptionError(
                self,
                "adapt_ahead",
                "must be false for {kind}: only a server writes tasks while children decode",
            )
        if self.devices is not None and self.kind != "local":
            raise OptionError(self, "devices", "must be none for {kind}: only local uses devices")
        if self.url is not None and self.kind != "openai":
            raise OptionError(self, "url", "must be none for {kind}: only openai uses a server")
