"""What each expert is trained on, as packed rows, after all checks."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from acdc_jax.errors import AcdcError, ConfigError
from acdc_jax.models import tokenizer as tokenizers
from acdc_jax.models.chat_template import Message
from acdc_jax.models.config import ModelConfig
from acdc_jax.tasks.gym.catalogue import choose_families
from acdc_jax.tasks.gym.split import Split, split_families
from acdc_jax.tasks.gym.training import deal_experts, draw_conversations
from acdc_jax.training.batches import predicted
from acdc_jax.training.conversations import read_conversations
from acdc_jax.training.encode import encode_conversations
from acdc_jax.training.examples import PackedExamples
from acdc_jax.training.options import ExpertOptions, Source
from acdc_jax.training.packing import pack


class ExpertData(NamedTuple):
    """What an expert is trained on.

    Attributes:
        name: Its name.
        about: The data in words, for people.
        examples: Its rows.
        conversations: Number of conversations.
        too_long: Number of examples that were left out, because no row has room for them.
    """

    name: str
    about: str
    examples: PackedExamples
    conversations: int
    too_long: int

    def digest(self) -> str:
        """Return a hash of the rows."""
        digest = hashlib.blake2b(digest_size=16)
        for array in self.examples:
            digest.update(repr((array.shape, array.dtype)).encode())
            digest.update(array.tobytes())
        return digest.hexdigest()


def load_data(
    options: ExpertOptions,
    prng_seed: int,
    folder: Path,
    config: ModelConfig,
    template: str | None,
    length: int,
) -> Iterator[ExpertData]:
    """Yield what each expert is trained on: read or drawn, encoded and packed.

    Args:
        options: What each is trained on.
        prng_seed: Divides questions of reasoning-gym between experts and held-out tasks.
        folder: Of the base, whose tokenizer is used.
        config: Its architecture.
        template: Chat template instead of the base's; None: that.
        length: Tokens of a row.

    Raises:
        ConfigError: An expert's families are all held out.
        AcdcError: A file cannot be read, the chat template does not fit, or no conversation is
            short enough.
    """
    tokenizer = tokenizers.load_tokenizer(folder)
    tokenizer.chat_template = template or tokenizer.chat_template
    stop_tokens = tokenizers.stop_tokens(folder, tokenizer)

    def pack_expert(
        name: str, about: str, conversations: Sequence[Sequence[Message]]
    ) -> ExpertData:
        try:
            examples, too_long = encode_conversations(
                conversations,
                tokenizer,
                stop_tokens=stop_tokens,
                rows=config.vocab_size,
                length=length,
                system_prompt=options.system_prompt,
            )
        except AcdcError as error:
            raise AcdcError(f"expert {name}: {error}") from error
        rows = pack(examples, length)
        if not predicted(rows).any():
            raise AcdcError(
                f"expert {name}: none of its {len(conversations)} conversations has at most "
                f"{length} tokens; raise --length"
            )
        return ExpertData(name, about, rows, len(conversations), too_long)

    split = split_families(options.gym_families, prng_seed)
    sources = options.sources() or _dealt(options, split)
    # Files first: faults in them are told at once, while drawing questions takes a minute.
    files = {source: read_conversations(Path(source.file)) for source in sources if source.file}
    for source in sources:
        if source in files:
            about = f"the conversations of {Path(source.file).name}"
            yield pack_expert(source.name, about, files[source])
        else:
            yield pack_expert(source.name, *_draw(source, options, split))


def _dealt(options: ExpertOptions, split: Split) -> list[Source]:
    """Return experts that share the categories of reasoning-gym."""
    try:
        experts = deal_experts(split, options.gym_experts)
    except ValueError as error:
        raise ConfigError(f"--gym_experts={options.gym_experts}: {error}") from None
    return [
        Source(expert.name, tuple(family.name for family in expert.families), "")
        for expert in experts
    ]


def _draw(
    source: Source, options: ExpertOptions, split: Split
) -> tuple[str, Sequence[Sequence[Message]]]:
    """Return an expert's data in words, and its conversations, of reasoning-gym."""
    families = [family for family in choose_families(source.families) if family in split.pool]
    if not families:
        raise ConfigError(
            f"--experts: {source.name}: all its families are held out with --seed="
            f"{split.prng_seed}; name more of them"
        )
    about = f"questions of reasoning-gym: {', '.join(family.name for family in families)}"
    return about, draw_conversations(families, split, options.questions)
