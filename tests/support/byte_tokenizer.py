"""A tokenizer of single bytes with special tokens, for any text."""

from collections.abc import Sequence
from typing import Any

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SPECIAL = ("<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|endoftext|>")


def byte_tokenizer(
    *, special: Sequence[str] = (), added: Sequence[str] = (), template: str = CHATML
) -> Any:
    """Return a tokenizer with ChatML's special tokens.

    Args:
        special: Further special tokens.
        added: Further tokens that are not special.
        template: The chat template.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({t: i for i, t in enumerate([*_SPECIAL, *letters])}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(t, special=True) for t in (*_SPECIAL, *special)])
    core.add_tokens([AddedToken(t, normalized=False) for t in added])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="<|endoftext|>", pad_token="<pad>"
    )
    tokenizer.chat_template = template
    return tokenizer
