"""Rebuild the tokenizer of a GGUF file as `tokenizer.json` and `tokenizer_config.json`.

Two kinds are known: byte-level BPE, whose pre-tokenizer the file names, and SentencePiece's BPE,
whose merges follow from the scores of its tokens.

Source: src/llama-vocab.cpp of https://github.com/ggml-org/llama.cpp, and the repositories of the
models for normalizers and pre-tokenizers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from acdc_jax.errors import AcdcError, one_line
from acdc_jax.models.gguf.header import GgufHeader
from acdc_jax.models.json_files import write_json

# Tokens that end a turn in the chat templates of models, whatever else the metadata says.
_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>")
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
_SPACE = "▁"  # SentencePiece's
# Qwen2's, with the number of digits that stay together.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = ("llama-bpe", "llama-v3", "llama3")
_PRE_TOKENIZERS = ("gpt-2", *_LLAMA3, "qwen2", "smollm")


class _Kind(IntEnum):
    """What a token is, as `tokenizer.ggml.token_type` says."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class _Vocabulary:
    """The tokenizer's part of the metadata, without `tokenizer.ggml.` before its keys.

    Attributes:
        entries: All of it.
        ids: Token → id, of all tokens that are not there to fill rows of the embedding.
        kinds: Token → what it is.
    """

    entries: Mapping[str, Any]
    ids: Mapping[str, int]
    kinds: Mapping[str, int]

    def token(self, key: str) -> str | None:
        """Return the token whose id an entry is; None if there is no such entry."""
        if (number := self.entries.get(key)) is None:
            return None
        tokens = self.entries["tokens"]
        is_index = type(number) is int and 0 <= number < len(tokens)
        if not is_index or tokens[number] not in self.ids:
            raise AcdcError(f"tokenizer.ggml.{key} = {str(number)[:40]} is no token")
        return str(tokens[number])


def write_tokenizer(header: GgufHeader, folder: Path) -> None:
    """Write tokenizer, chat template and generation configuration of a GGUF file.

    Args:
        header: Of the file.
        folder: Where to write.

    Raises:
        AcdcError: The file has no tokenizer, a damaged one, or one of an unsupported kind.
    """
    try:
        vocabulary = _vocabulary(header)
        build = _builder(vocabulary, str(header.metadata.get("general.architecture")))
        template = header.metadata.get("tokenizer.chat_template")
        if not isinstance(template, str | None):
            raise AcdcError("the chat template is no text")
        try:
            tokenizer = build()
            tokenizer.save(str(folder / "tokenizer.json"))
        except Exception as error:  # the tokenizers library raises bare Exception
            raise AcdcError(f"damaged tokenizer ({one_line(error)})") from None
        special = {
            "bos_token": vocabulary.token("bos_token_id"),
            "eos_token": vocabulary.token("eos_token_id"),
            "pad_token": vocabulary.token("padding_token_id") or vocabulary.token("eos_token_id"),
            "unk_token": vocabulary.token("unknown_token_id"),
        }
        fields = {name: token for name, token in special.items() if token is not None}
        if template:
            fields["chat_template"] = template
        write_json(
            folder / "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "clean_up_tokenization_spaces": False,
                "add_bos_token": _adds_bos(vocabulary),
                "padding_side": "left",
                **fields,
            },
        )
        write_json(folder / "generation_config.json", _generation_fields(vocabulary, template))
    except AcdcError as error:
        raise AcdcError(f"{header.file}: {error}") from None


def _vocabulary(header: GgufHeader) -> _Vocabulary:
    prefix = "tokenizer.ggml."
    entries = {
        key.removeprefix(prefix): value
        for key, value in header.metadata.items()
        if key.startswith(prefix)
    }
    tokens = entries.get("tokens")
    if not isinstance(tokens, list) or not tokens or not isinstance(tokens[0], str):
        raise AcdcError("has no tokenizer (tokenizer.ggml.tokens)")
    numbers = entries.get("token_type", [_Kind.NORMAL] * len(tokens))
    if not isinstance(numbers, list) or len(numbers) != len(tokens):
        raise AcdcError("tokenizer.ggml.token_type has another length than the tokens")
    ids: dict[str, int] = {}
    kinds: dict[str, int] = {}
    for number, (token, kind) in enumerate(zip(tokens, numbers, strict=True)):
        if kind == _Kind.UNUSED and token == f"[PAD{number}]":
            continue  # the converter's name for a row that no token has
        if token in ids:
            raise AcdcError(f"tokenizer.ggml.tokens has {token!r} twice")
        ids[token], kinds[token] = number, kind
    return _Vocabulary(entries, ids, kinds)


def _builder(vocabulary: _Vocabulary, architecture: str) -> Callable[[], Any]:
    """Return what builds the tokenizer, after a look at its kind."""
    model, pre = vocabulary.entries.get("model"), vocabulary.entries.get("pre")
    if model == "llama":
        return lambda: _sentencepiece(vocabulary, architecture)
    if model != "gpt2":
        raise AcdcError(f"unsupported tokenizer.ggml.model = {model!r}; supported: gpt2, llama")
    if pre not in _PRE_TOKENIZERS:
        raise AcdcError(
            f"unsupported tokenizer.ggml.pre = {pre!r}; supported: {', '.join(_PRE_TOKENIZERS)}"
        )
    return lambda: _byte_level(vocabulary, str(pre))


def _byte_level(vocabulary: _Vocabulary, pre: str) -> Any:
    """Return a byte-level BPE as `tokenizers.Tokenizer`."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    merges = [tuple(merge.split(" ")) for merge in vocabulary.entries.get("merges", [])]
    # Llama 3 takes whole words that are tokens, without looking at merges.
    bpe = models.BPE(dict(vocabulary.ids), merges, ignore_merges=pre in _LLAMA3)
    tokenizer = Tokenizer(bpe)
    if pre == "gpt-2":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    elif pre == "smollm":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    else:
        if pre == "qwen2":
            tokenizer.normalizer = normalizers.NFC()
        pattern = Regex(_SPLIT.format(digits="" if pre == "qwen2" else "{1,3}"))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(pattern, "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    tokenizer.decoder = decoders.ByteLevel()
    return _with_special_tokens(tokenizer, vocabulary)


def _sentencepiece(vocabulary: _Vocabulary, architecture: str) -> Any:
    """Return SentencePiece's BPE as `tokenizers.Tokenizer`."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    ids, scores = dict(vocabulary.ids), list(vocabulary.entries["scores"])
    kinds = dict(vocabulary.kinds)
    if architecture.startswith("gemma"):
        # Runs of spaces are stored as they are in texts. The converter has overwritten some scores,
        # but the order of the tokens is the same.
        runs = {token: _SPACE * len(token) for token in ids if not token.strip(" ")}
        ids = {runs.get(token, token): number for token, number in ids.items()}
        kinds = {token: kinds.get(token, _Kind.NORMAL) for token in ids}
        scores = [-number for number in range(len(scores))]
    unknown = vocabulary.token("unknown_token_id") or next(
        (token for token, kind in kinds.items() if kind == _Kind.UNKNOWN), None
    )
    bpe = models.BPE(
        ids,
        _merges(ids, kinds, scores),
        unk_token=unknown,
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(bpe)
    spaces = normalizers.Replace(" ", _SPACE)
    decoding = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if vocabulary.entries.get("add_space_prefix", True):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces])
        decoding.append(decoders.Strip(" ", 1, 0))
    else:
        tokenizer.normalizer = spaces
    tokenizer.decoder = decoders.Sequence(decoding)
    kept = {token: kind for token, kind in kinds.items() if token in vocabulary.ids}
    return _with_special_tokens(tokenizer, _Vocabulary(vocabulary.entries, vocabulary.ids, kept))


def _merges(
    ids: Mapping[str, int], kinds: Mapping[str, int], scores: Sequence[float]
) -> list[tuple[str, str]]:
    """Return every pair of tokens that make another one, the one of highest score first."""
    whole = {token for token, kind in kinds.items() if kind != _Kind.NORMAL}
    merges = [
        (-scores[number], ids[token[:i]], ids[token[i:]], token[:i], token[i:])
        for token, number in ids.items()
        if token not in whole
        for i in range(1, len(token))
        if token[:i] in ids and token[i:] in ids
        if token[:i] not in whole and token[i:] not in whole
    ]
    return [(first, second) for *_, first, second in sorted(merges)]


def _with_special_tokens(tokenizer: Any, vocabulary: _Vocabulary) -> Any:
    """Return the tokenizer with the tokens that are never split, and with its first token."""
    from tokenizers import AddedToken, processors

    for token, kind in vocabulary.kinds.items():
        if kind in (_Kind.CONTROL, _Kind.UNKNOWN):
            tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True)])
        elif kind == _Kind.USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, normalized=False)])
    bos = vocabulary.token("bos_token_id")
    if bos is not None and _adds_bos(vocabulary):
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"],
            pair=[bos, "$A", bos, "$B:1"],
            special_tokens=[(bos, vocabulary.ids[bos])],
        )
    return tokenizer


def _adds_bos(vocabulary: _Vocabulary) -> bool:
    """Return whether texts, other than chats, begin with a token for that."""
    entries = vocabulary.entries
    default = entries.get("model") == "llama" or entries.get("pre") in _LLAMA3
    return bool(entries.get("add_bos_token", default)) and "bos_token_id" in entries


def _generation_fields(vocabulary: _Vocabulary, template: str | None) -> dict[str, Any]:
    """Return the fields of `generation_config.json`: the tokens that end a response, and more."""
    ends = {vocabulary.token(key) for key in _ENDS} - {None}
    ends |= {end for end in _TURN_ENDS if end in vocabulary.ids and end in (template or "")}
    fields: dict[str, Any] = {}
    if ends:
        stop = sorted(vocabulary.ids[str(end)] for end in ends)
        fields["eos_token_id"] = stop[0] if len(stop) == 1 else stop
    for name, key in (("bos_token_id", "bos_token_id"), ("pad_token_id", "padding_token_id")):
        if key in vocabulary.entries:
            fields[name] = vocabulary.entries[key]
    return fields
