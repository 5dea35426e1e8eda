"""Conversations as tokens, beside what transformers makes of them."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acdc_jax.errors import AcdcError
from acdc_jax.inference.text_codec import make_text_codec
from acdc_jax.models.chat_template import Message
from acdc_jax.training.encode import Encoded, encode_conversations
from acdc_jax.training.examples import Example
from tests.support.byte_tokenizer import CHATML, byte_tokenizer

pytestmark = pytest.mark.xdist_group("torch")  # transformers imports torch where it finds it

_MARKED = (  # ChatML with the marks by which transformers knows what the assistant says
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<|im_start|>assistant\n"
    "{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}{{ '\\n' }}{% else %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Like Qwen3: without thoughts, an empty one precedes the last answer, and no earlier one.
_EMPTY_THOUGHT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if loop.last and m['role'] == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}"
)
_NO_END = (  # answers end without a mark
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
_NO_PROMPT = CHATML.partition("{% if add_generation_prompt")[0]


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


_SHORT = [_user("Why is the sky blue?"), _assistant("It scatters light.")]
_LONG = [
    {"role": "system", "content": "Be brief."},
    *_SHORT,
    _user("Which light?"),
    _assistant("Blue, above all."),
]


def _encode(tokenizer: Any, *conversations: Sequence[Message], **options: Any) -> Encoded:
    settings = {"stop_tokens": _stops(tokenizer), "rows": len(tokenizer), "length": 4096} | options
    return encode_conversations(conversations, tokenizer, **settings)


def _stops(tokenizer: Any) -> set[int]:
    return set(tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]))


def _answers(tokenizer: Any, example: Example) -> list[str]:
    """Return the texts that the loss counts, of each stretch of an example."""
    texts, before = list[str](), False
    for token, counts in zip(*example, strict=True):
        if counts:
            texts = texts if before else [*texts, ""]
            texts[-1] += tokenizer.decode([token])
        before = counts
    return texts


@st.composite
def _conversations(draw: st.DrawFn) -> list[Message]:
    text = st.text(st.characters(codec="ascii"), min_size=1, max_size=12)
    turns = draw(st.lists(st.tuples(text, text), min_size=1, max_size=3))
    system = [{"role": "system", "content": draw(text)}] if draw(st.booleans()) else []
    return [*system, *(m for asked, said in turns for m in (_user(asked), _assistant(said)))]


@settings(max_examples=50, deadline=None)
@given(_conversations())
def test_tokens_and_mask_are_those_of_transformers(messages: list[Message]) -> None:
    """Of a template that marks what the assistant says; ours needs no marks."""
    marked, plain = byte_tokenizer(template=_MARKED), byte_tokenizer()
    theirs = marked.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    for tokenizer in (marked, plain):
        ((example,), too_long) = _encode(tokenizer, messages)
        assert too_long == 0
        # What the template writes behind the last answer's end is not learnt, and left out.
        size = len(example.tokens)
        assert tokenizer.decode(theirs["input_ids"][size:]) == "\n"
        assert example.tokens == theirs["input_ids"][:size]
        assert example.answer == [bool(mask) for mask in theirs["assistant_masks"][:size]]
        assert [*theirs["assistant_masks"][size:]] == [0]


@pytest.mark.parametrize("template", [CHATML, _EMPTY_THOUGHT, _NO_END, _NO_PROMPT])
@pytest.mark.parametrize("system_prompt", [None, "Be kind."])
def test_prompts_are_those_of_a_run(template: str, system_prompt: str | None) -> None:
    """Token by token, with the run's system prompt; the answer ends as a response does."""
    tokenizer = byte_tokenizer(template=template)
    stops = _stops(tokenizer)
    codec = make_text_codec(tokenizer, [*stops], len(tokenizer), system_prompt=system_prompt)
    ((example,), _) = _encode(tokenizer, _SHORT, system_prompt=system_prompt)
    prompt = codec.encode(_SHORT[0]["content"])
    assert tuple(example.tokens[: len(prompt)]) == prompt
    assert example.answer == [i >= len(prompt) for i in range(len(example.tokens))]
    assert example.tokens[-1] in stops
    assert stops.isdisjoint(example.tokens[len(prompt) : -1])
    assert codec.decode(tuple(example.tokens[len(prompt) :])).strip() == _SHORT[1]["content"]


def test_several_turns_share_an_example() -> None:
    """Each answer is learnt, with its end; a conversation's own system message stays."""
    tokenizer = byte_tokenizer()
    ((example,), _) = _encode(tokenizer, _LONG, system_prompt="Be kind.")
    assert _answers(tokenizer, example) == [
        "It scatters light.<|im_end|>",
        "Blue, above all.<|im_end|>",
    ]
    assert "Be kind" not in tokenizer.decode(example.tokens)


@pytest.mark.parametrize(("template", "end"), [(_EMPTY_THOUGHT, "<|im_end|>"), (_NO_END, "\n")])
def test_turns_that_a_template_writes_in_another_way_later(template: str, end: str) -> None:
    """Each answer is learnt once, behind the prompt that a run would ask with."""
    tokenizer = byte_tokenizer(template=template)
    (first, second), _ = _encode(tokenizer, _LONG)
    mark = "" if end == "<|im_end|>" else "<|endoftext|>"
    assert _answers(tokenizer, first) == [f"It scatters light.{end}{mark}"]
    assert _answers(tokenizer, second) == [f"Blue, above all.{end}{mark}"]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": False}
    prompt = tokenizer.apply_chat_template(_LONG[:-1], **options)
    assert second.tokens[: len(prompt)] == prompt


def test_an_answer_that_begins_within_a_token() -> None:
    """The prompt keeps its tokens, though the two line breaks would be one token together."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {t: i for i, t in enumerate(["<|im_start|>", "<|im_end|>", *letters, "ĊĊ"])}
    core = Tokenizer(models.BPE(vocabulary, [("Ċ", "Ċ")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>")
    tokenizer.chat_template = CHATML
    messages = [_user("Poem?"), _assistant("\nRoses")]
    ((example,), _) = _encode(tokenizer, messages, stop_tokens={1})
    assert _answers(tokenizer, example) == ["\nRoses<|im_end|>"]
    prompt = make_text_codec(tokenizer, [1], len(tokenizer)).encode("Poem?")
    assert tuple(example.tokens[: len(prompt)]) == prompt


def test_long_examples_are_counted() -> None:
    """And left out, not cut."""
    tokenizer = byte_tokenizer()
    (short,), _ = _encode(tokenizer, _SHORT)
    assert _encode(tokenizer, _SHORT, _LONG, length=len(short.tokens)) == ([short], 1)
    assert _encode(tokenizer, _SHORT, _LONG, length=len(short.tokens) - 1) == ([], 2)


@pytest.mark.parametrize(
    ("template", "messages", "options", "reason"),
    [
        (None, _SHORT, {}, r"no chat template; give one \(--chat_template\)"),
        (
            "{{ raise_exception('no system') if messages[2:] }}" + CHATML,
            _LONG,
            {},
            "conversation 1: .*chat template: no system",
        ),
        (  # like DeepSeek's distilled models: a thought is opened, and later left out
            CHATML.replace("assistant\n", "assistant\n<think>\n"),
            _SHORT,
            {},
            "elsewhere than behind its generation prompt .*<think>",
        ),
        (
            CHATML,
            [_user("End?"), _assistant("It is <|im_end|>, you see.")],
            {},
            r"conversation 1: .*contains '<\|im_end\|>'",
        ),
        (CHATML, _SHORT, {"rows": 50}, "conversation 1: .*the embedding has 50 rows"),
    ],
)
def test_refusals(template: Any, messages: Any, options: Any, reason: str) -> None:
    """One line that names the conversation, if it is its fault."""
    tokenizer = byte_tokenizer(template=template)
    with pytest.raises(AcdcError, match=reason) as refusal:
        _encode(tokenizer, messages, **options)
    assert "\n" not in str(refusal.value)
