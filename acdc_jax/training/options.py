"""Options of `acdc experts`: from which base, on what, and how experts are trained."""

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

from acdc_jax.inference.options import DecodeOptions
from acdc_jax.options import OptionError, check, option
from acdc_jax.tasks.gym.catalogue import choose_families

_GYM = "gym:"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LENGTH_MULTIPLE = 64  # GPUs compute rows in blocks of tokens


class Source(NamedTuple):
    """What an expert is trained on.

    Attributes:
        name: Name of the expert, and of its folder.
        families: Families and categories of reasoning-gym, as `choose_families` takes them; () if
            there is a file.
        file: JSON Lines file of conversations; "" if there is none.
    """

    name: str
    families: tuple[str, ...]
    file: str


@dataclass(frozen=True)
class ExpertOptions:
    """The experts

    Attributes:
        base_model: Name of the model that training starts from, as `find_model` takes it.
        out: Folder of the experts' folders.
        experts: What each is trained on, see `sources`; (): `gym_experts` of reasoning-gym.
        gym_experts: Number of experts that share the categories of reasoning-gym.
        gym_families: Families and categories of reasoning-gym that are used.
        questions: Most questions of a family of reasoning-gym.
        system_prompt: System message of conversations without one, or None.
        chat_template: File with a Jinja chat template; None is the base's.
        dtype: Dtype of the weights that are computed with and written; None: the base's.
    """

    base_model: str | None = option(
        None,
        "The model that training starts from: a Hugging Face folder, a GGUF file, or a Hub id such "
        "as owner/model@revision. Required.",
        path=True,
    )
    out: str | None = option(
        None,
        "Folder to write: one folder for each expert. If it holds experts of the same flags, "
        "training resumes. Required.",
        path=True,
    )
    experts: tuple[str, ...] = option(
        (),
        "Name and data of each expert: NAME=FILE.jsonl (conversations; see above), or "
        "NAME=gym:CATEGORY,FAMILY,-FAMILY (questions of reasoning-gym; a minus excludes). Default: "
        "the categories of reasoning-gym, dealt to --gym_experts.",
    )
    gym_experts: int = option(
        5, "Experts that share the categories of reasoning-gym, without --experts.", low=1
    )
    gym_families: tuple[str, ...] = option(
        (),
        "Categories and families of reasoning-gym to divide between experts and held-out tasks, as "
        "`acdc run` does with the same value and the same --seed. Default: all.",
    )
    questions: int = option(300, "Most questions of each family of reasoning-gym.", low=1)
    system_prompt: str | None = option(
        DecodeOptions.system_prompt,
        "System message of conversations without one, by default that of `acdc run`. none: no "
        "system message.",
    )
    chat_template: str | None = option(
        None, "File with a Jinja chat template. none: that of the base's tokenizer.", path=True
    )
    dtype: Literal["bfloat16", "float32"] | None = option(
        None,
        "Dtype of the weights that are computed with and written; optimizer and master weights are "
        "float32. none: the base's, and bfloat16 for quantised ones.",
    )

    def __post_init__(self) -> None:
        check(self)
        self.sources()
        try:
            choose_families(self.gym_families)
        except ValueError as error:
            raise OptionError(self, "gym_families", str(error)) from None

    def sources(self) -> list[Source]:
        """Return what `experts` names.

        A text without "=" continues the one before: `a=gym:words,-ab` is one expert.

        Raises:
            OptionError: A text cannot be read, or a name repeats.
        """
        items: list[str] = []
        for text in self.experts:
            if "=" in text:
                items.append(text)
            elif items and items[-1].partition("=")[2].startswith(_GYM):
                items[-1] += f",{text}"
            else:
                raise self._error(f"{text!r} is not NAME=FILE.jsonl or NAME=gym:FAMILY")
        return [self._source(item) for item in self._unique(items)]

    def _unique(self, items: list[str]) -> list[str]:
        names = [item.partition("=")[0].strip() for item in items]
        for i, name in enumerate(names):
            if not _NAME.fullmatch(name):
                raise self._error(f"{name!r} cannot be the name of a folder")
            if name in names[:i]:
                raise self._error(f"{name} appears twice; name each expert once")
        return items

    def _source(self, item: str) -> Source:
        name, _, data = (part.strip() for part in item.partition("="))
        if not data.startswith(_GYM):
            if not data:
                raise self._error(f"{name} has no data: NAME=FILE.jsonl or NAME=gym:FAMILY")
            return Source(name, (), data)
        families = tuple(part.strip() for part in data.removeprefix(_GYM).split(",") if part)
        try:
            choose_families(families)
        except ValueError as error:
            raise self._error(f"{name}: {error}") from None
        return Source(name, families, "")

    def _error(self, problem: str) -> OptionError:
        return OptionError(self, "experts", problem)


@dataclass(frozen=True)
class TrainOptions:
    """Training

    Attributes:
        steps: Steps of the optimizer.
        batch_tokens: Tokens of a step, padding included.
        length: Tokens of a row, into which conversations are packed.
        learning_rate: Peak of the learning rate.
        warmup: Steps of linear warm-up, before a cosine to zero.
        weight_decay: Of AdamW, on matrices.
        clip: Largest global norm of a gradient.
        lora_rank: Rank of LoRA adapters; None trains all weights.
        lora_alpha: Scale of the adapters, times the rank; None: twice the rank.
        merge_adapters: Whether adapters are written as whole models.
        seed: PRNG seed.
        save_every: Steps between saved states.
        mesh: Device mesh, such as "pop:4,model:2"; None chooses.
    """

    steps: int = option(500, "Steps of the optimizer.", low=1)
    batch_tokens: int = option(
        16_384, "Tokens of a step and expert, rounded down to whole rows.", low=_LENGTH_MULTIPLE
    )
    length: int = option(
        1024,
        "Tokens of a row, into which several conversations are packed. Longer conversations are "
        f"left out, and counted. A multiple of {_LENGTH_MULTIPLE}.",
        low=_LENGTH_MULTIPLE,
    )
    learning_rate: float = option(1e-4, "Learning rate after the warm-up.", above=0)
    warmup: int = option(
        20, "Steps of linear warm-up; a cosine then lowers the learning rate to zero.", low=0
    )
    weight_decay: float = option(0.0, "Weight decay of AdamW, on matrices.", low=0)
    clip: float = option(1.0, "Largest global norm of an expert's gradient.", above=0)
    lora_rank: int | None = option(
        None, "Train LoRA adapters of this rank on all projections. none: train all weights.", low=1
    )
    lora_alpha: float | None = option(
        None, "Scale of the adapters: alpha / rank. none: twice the rank.", above=0
    )
    merge_adapters: bool = option(
        False, "Merge LoRA adapters into the base, and write whole models instead of adapters."
    )
    seed: int = option(
        0,
        "PRNG seed. The same flags and seed give the same experts, and divide the tasks of "
        "reasoning-gym as `acdc run` does.",
        low=0,
        high=2**32 - 1,
    )
    save_every: int = option(
        200, "Steps between saved states, from which training resumes.", low=1, resumable=True
    )
    mesh: str | None = option(
        None,
        "Device mesh: pop:4,model:2 is four groups of two devices. Each group trains its share of "
        "the experts, with their weights spread over its devices. none: the smallest groups that "
        "hold an expert.",
    )

    def __post_init__(self) -> None:
        check(self)
        if self.length % _LENGTH_MULTIPLE:
            raise OptionError(self, "length", f"must be a multiple of {_LENGTH_MULTIPLE}")
        if self.batch_tokens < self.length:
            raise OptionError(self, "batch_tokens", "must be at least {length}")
        if self.warmup >= self.steps:
            raise OptionError(self, "warmup", "must be lower than {steps}")
        if self.lora_rank is None and (self.lora_alpha is not None or self.merge_adapters):
            field = "merge_adapters" if self.merge_adapters else "lora_alpha"
            raise OptionError(self, field, "is of LoRA adapters: set --lora_rank")

    @property
    def rows(self) -> int:
        """Rows of a step."""
        return self.batch_tokens // self.length

    @property
    def lora_scale(self) -> float:
        """The factor of B·A."""
        if self.lora_rank is None:
            return 0.0
        return (self.lora_alpha or 2 * self.lora_rank) / self.lora_rank
