"""Stop strings end a response, also if they are special tokens; thoughts are told from answers."""

from typing import Any

import pytest

from acdc_jax.inference.stop_strings import make_stop_strings
from acdc_jax.inference.text_codec import make_text_codec
from acdc_jax.models import tokenizer
from tests.support.byte_tokenizer import CHATML, byte_tokenizer

_HARMONY = ("<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|return|>")


@pytest.fixture(scope="module")
def tok() -> Any:
    return byte_tokenizer(special=("[THINK]", "[/THINK]", "<tool>"), added=("<think>", "</think>"))


def _tokens(tok: Any, text: str) -> tuple[int, ...]:
    return tuple(tok.encode(text, add_special_tokens=False))


def test_a_special_token_is_a_stop_token(tok: Any) -> None:
    """Text is decoded without special tokens: among its characters they are never found."""
    stop = make_stop_strings(tok, ["Q:", "</s>", "<|im_end|>", "", "<none>", "<think>"])
    assert stop.tokens == (2, 4)
    assert stop.texts == ("Q:", "<none>", "<think>")
    assert stop.spelled_out == ()
    codec = make_text_codec(tok, [5], 999, stop_strings=["<|im_end|>"])
    assert codec.stop_tokens == (4, 5)
    assert codec.stopped is None
    assert make_text_codec(tok, [5], 999, stop_strings=["x", "</s>"]).stop_tokens == (2, 5)


@pytest.mark.parametrize(
    ("text", "cut", "stops"),
    [
        ("AB", "AB", False),
        ("AB<tool>C", "ABC", False),
        ("ABstopCstop", "AB", True),
        ("AB\n<|im_end|>\nC", "AB\n", True),  # spelled out with a special token
        ("AB<|im_end|>C", "ABC", False),
        ("<think>a stop b</think>c stop d", "<think>a stop b</think>c ", True),
        ("<think>a stop b", "<think>a stop b", False),
        ("a stop b", "a ", True),
        ("a stop b</think>c", "a stop b</think>c", False),
        ("[THINK]a stop b[/THINK]c", "[THINK]a stop b[/THINK]c", False),
        ("[THINK]<tool>a[/THINK]c<|im_end|>\nd", "[THINK]a[/THINK]c", True),
    ],
)
def test_cut(tok: Any, text: str, cut: str, stops: bool) -> None:
    stop = make_stop_strings(tok, ["stop", "<|im_end|>\n"])
    assert stop.spelled_out == ("<|im_end|>\n",)
    assert stop.cut(_tokens(tok, text)) == (cut, stops)


def test_special_tokens_that_mark_thoughts_are_decoded(tok: Any) -> None:
    for text in ("[THINK]a[/THINK]b", "é[/THINK] ü"):
        assert tokenizer.decode(tok, list(_tokens(tok, text))) == text
    assert tokenizer.decode(tok, list(_tokens(tok, "<s>[THINK]a<|im_end|>"))) == "[THINK]a"
    assert tokenizer.decode(tok, list(_tokens(tok, "<s>a<tool>b</s>"))) == "ab"
    harmony = byte_tokenizer(special=_HARMONY)
    text = "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b"
    assert tokenizer.decode(harmony, list(_tokens(harmony, text))) == text
    phi = byte_tokenizer(special=("<|end|>",))  # of another format, in which it ends a turn
    assert tokenizer.decode(phi, list(_tokens(phi, "a<|end|>"))) == "a"


def test_a_thought_that_the_prompt_opens() -> None:
    """Its mark comes before the response, which is otherwise taken for the answer."""
    opens = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    tok = byte_tokenizer(added=("<think>", "</think>"), template=opens)
    codec = make_text_codec(tok, [5], 999, stop_strings=["Q:"])
    assert codec.stopped is not None
    for said, text, stops in (
        ("Answer: 5? I am", "<think>\nAnswer: 5? I am", False),
        ("5? Q: no", "<think>\n5? Q: no", False),
        ("5?</think>42 Q: x", "<think>\n5?</think>42 ", True),
        ("<think>5?</think>42", "<think>5?</think>42", False),  # it writes the mark itself
    ):
        assert codec.decode(_tokens(tok, said)) == text
        assert codec.stopped(_tokens(tok, said)) is stops
    closes = opens.replace("<think>\n", "<think>\n\n</think>\n\n")  # as Qwen3's without thinking
    tok = byte_tokenizer(added=("<think>", "</think>"), template=closes)
    assert make_text_codec(tok, [5], 999).decode(_tokens(tok, "42")) == "42"
