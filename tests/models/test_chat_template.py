"""Prompts in chat templates, with templates that behave as those of well-known models."""

from pathlib import Path
from typing import Any

import pytest

from acdc_jax.errors import AcdcError
from acdc_jax.models.chat_template import (
    RefusedMessages,
    encode_chat,
    encode_exchange,
    missing_generation_prompt,
)
from acdc_jax.models.tokenizer import decode, load_tokenizer
from tests.support.byte_tokenizer import byte_tokenizer
from tests.support.hf_checkpoints import CHAT_TEMPLATE

pytestmark = pytest.mark.xdist_group("torch")  # transformers imports torch where it finds it


def test_chat(chat_tokenizer_folder: Path) -> None:
    """The template's special tokens are tokens, and the generation prompt is there."""
    loaded = load_tokenizer(chat_tokenizer_folder)
    prompt = encode_chat(loaded, "why?", "be brief")
    assert loaded.decode(prompt) == "<s>system be brief</s><s>user why?</s><s>assistant "
    assert prompt.count(1) == 3
    assert encode_chat(loaded, "why?") == prompt[prompt.index(1, 1) :]
    assert decode(loaded, [*loaded.encode("a b: c"), 2, 0]) == "a b: c"


def test_bad_chat_templates(chat_tokenizer_folder: Path) -> None:
    """Missing, or refusing the messages."""
    loaded = load_tokenizer(chat_tokenizer_folder)
    loaded.chat_template = "{{ raise_exception('no system message') }}"
    with pytest.raises(AcdcError, match="chat template: no system message"):
        encode_chat(loaded, "why?", "be brief")
    loaded.chat_template = None
    with pytest.raises(AcdcError, match="no chat template"):
        encode_chat(loaded, "why?")


@pytest.mark.parametrize(
    "day",
    [
        # Llama 3's, and one that does not know the name.
        "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
        '{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}'
        '{%- set date_string = "26 Jul 2024" %}{%- endif %}{%- endif %}{{ date_string }}',
        "26 Jul 2024",
        "{{ strftime_now('%d %b %Y') }}",  # does not look at date_string
        "{% set form = '%d %b %Y' %}{{ strftime_now(format=form) }}",
    ],
)
def test_templates_write_the_same_date_on_every_day(day: str, chat_tokenizer_folder: Path) -> None:
    """A run that goes on tomorrow asks the same."""
    loaded = load_tokenizer(chat_tokenizer_folder)
    loaded.chat_template = f"{day} {CHAT_TEMPLATE}"
    prompt = loaded.decode(encode_chat(loaded, "why?"))
    assert prompt == "26 Jul 2024 <s>user why?</s><s>assistant "


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% if tools|length > 0 %}{{ tools }}{% endif %}", "object of type 'NoneType'"),
        ("{{ 'Turn ' + 1 }}", "can only concatenate str"),
        ("{{ messages[7].content }}", "no element 7"),
        ("{% for %}", "Expected"),
        ({"rag": "x", "tool_use": "y"}, "multiple chat templates with no default"),
    ],
)
def test_a_template_that_fails_is_one_line(
    template: Any, reason: str, chat_tokenizer_folder: Path
) -> None:
    loaded = load_tokenizer(chat_tokenizer_folder)
    loaded.chat_template = template
    message = f"{chat_tokenizer_folder}: chat template: .*{reason}.*; give another one"
    with pytest.raises(AcdcError, match=message):
        encode_chat(loaded, "why?", "briefly")


# Small templates that treat messages as those of the models do.
_TEMPLATES = {
    "ChatML": "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}",
    "Qwen": "{% if messages[0].role != 'system' %}<s>system\nYou help.</s>\n{% endif %}"
    "{% for m in messages %}{% set text = m.content if m.content is string else '' %}"
    "<s>{{ m.role }}\n{{ text.split('</think>')[-1] if m.role == 'assistant' else text }}</s>\n"
    "{% endfor %}{% if add_generation_prompt %}<s>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}",
    "Llama 3": "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{% set system = messages[0].content | trim %}{% set messages = messages[1:] %}{% else %}"
    "{% set system = '' %}{% endif %}system\n\n"
    "{{ date_string if date_string is defined else strftime_now('%d %b %Y') }}\n\n{{ system }}</s>"
    "{% for m in messages %}{{ m.role }}\n\n{{ m.content | trim }}</s>{% endfor %}"
    "{% if add_generation_prompt %}assistant\n\n{% endif %}",
    "Gemma 2": "{% if messages[0].role == 'system' %}{{ raise_exception('No system') }}{% endif %}"
    "{% for m in messages %}<s>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}</s>\n{% endfor %}{% if add_generation_prompt %}<s>model\n{% endif %}",
    "Gemma 3": "{% if messages[0].role == 'system' %}"
    "{% set first = (messages[0].content if messages[0].content is string else "
    "messages[0].content[0].text) + '\n\n' %}{% set messages = messages[1:] %}{% endif %}"
    "{% for m in messages %}<s>{{ m.role }}\n{{ first if loop.first }}"
    "{% if m.content is string %}{{ m.content | trim }}{% else %}"
    "{% for part in m.content %}{{ part.text | trim }}{% endfor %}{% endif %}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>model\n{% endif %}",
    "Mistral": "{% if messages[0].role == 'system' %}"
    "{% set system = messages[0].content + '\n\n' %}{% set messages = messages[1:] %}"
    "{% endif %}<s>{% for m in messages %}{% if m.role == 'user' %}[INST] "
    "{{ system if loop.last }}{{ m.content }} [/INST]"
    "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}",
    "old Mistral": "<s>{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{{ '[INST] ' + m.content + ' [/INST]' if m.role == 'user' else m.content + '</s>' }}"
    "{% endfor %}",
    "DeepSeek R1": "{% set ns = namespace(system='') %}{% for m in messages %}"
    "{% if m.role == 'system' %}{% set ns.system = m.content %}{% endif %}{% endfor %}<s>"
    "{{ ns.system }}{% for m in messages if m.role != 'system' %}<|{{ m.role }}|>"
    "{{ m.content.split('</think>')[-1] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}",
    "SmolLM": "{% if messages[0].role != 'system' %}<s>system\nYou are SmolLM.</s>\n{% endif %}"
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content | replace('/no_think', '') | trim }}</s>"
    "\n{% endfor %}{% if add_generation_prompt %}<s>assistant\n{% endif %}",
}
_QUESTION = "What is 2 + 3?\n  End with '/think'."
_WISH = "  Be brief. "


@pytest.mark.parametrize("name", _TEMPLATES)
def test_common_templates(name: str) -> None:
    """What is said is in the prompt once, as transformers writes and encodes it."""
    loaded = byte_tokenizer(template=_TEMPLATES[name])
    joined = [{"role": "user", "content": f"{_WISH}\n\n{_QUESTION}"}]
    separate = [{"role": "system", "content": _WISH}, {"role": "user", "content": _QUESTION}]
    messages = joined if name in ("Gemma 2", "old Mistral") else separate
    expected = loaded.apply_chat_template(
        messages,
        add_generation_prompt=True,
        enable_thinking=False,
        date_string="26 Jul 2024",
        return_dict=False,
    )
    prompt = encode_chat(loaded, _QUESTION, _WISH)
    assert loaded.decode(prompt) == loaded.decode(expected)
    assert prompt == expected
    for text in (_WISH.strip(), _QUESTION):
        assert loaded.decode(prompt).count(text) == 1
    assert missing_generation_prompt(loaded) == ""
    assert _QUESTION in loaded.decode(encode_chat(loaded, _QUESTION))


def test_changed_white_space_and_case() -> None:
    """Nothing is left out."""
    template = "{% for m in messages %}{{ m.content | upper | indent }}{% endfor %}"
    loaded = byte_tokenizer(template=template)
    assert loaded.decode(encode_chat(loaded, "why\nso?", "be brief")) == "BE BRIEFWHY\n    SO?"


@pytest.mark.parametrize("system", ["Be brief.", None])
def test_contents_in_parts(system: str | None) -> None:
    """As in the templates of models that see; text alone is left out without an error there."""
    loaded = byte_tokenizer()
    loaded.chat_template = (
        "{% for m in messages %}<s>{{ m.role }} {% for p in m.content %}{% if p.type == 'text' %}"
        "{{ p.text }}{% endif %}{% endfor %}</s>{% endfor %}"
        "{% if add_generation_prompt %}<s>assistant {% endif %}"
    )
    prompt = encode_chat(loaded, "why?", system)
    loaded.chat_template = CHAT_TEMPLATE
    assert prompt == encode_chat(loaded, "why?", system)
    loaded.chat_template = "{{ messages[0].content[0].text }}{{ messages[1].content[0]['text'] }}"
    assert loaded.decode(encode_exchange(loaded, "why?", "so")) == "why?so"


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}",
        "{% for m in messages if m.role != 'system' %}{{ m.content[0].text }}{% endfor %}",
        # The system message in parts, the user's as text.
        "{% if messages[0].role == 'system' %}{% set said = messages[0].content[0].text %}"
        "{% set messages = messages[1:] %}{% endif %}{{ said }}{{ messages[0].content }}",
        # The other way round, and the wrong one is written as Python does.
        "{% if messages[0].role == 'system' %}{% set said = messages[0].content %}"
        "{% set messages = messages[1:] %}{% endif %}{{ said }}{{ messages[0].content[0].text }}",
        "{{ messages[-1].content }}",
    ],
)
def test_a_system_message_that_is_left_out(template: str) -> None:
    """The user says it."""
    loaded = byte_tokenizer(template=template)
    assert loaded.decode(encode_chat(loaded, "why?", "be brief")) == "be brief\n\nwhy?"
    assert loaded.decode(encode_chat(loaded, "why?")) == "why?"


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages if m.role == 'system' %}{{ m.content }}{% endfor %}",
        "{{ messages[0].contents }}<s>assistant",
        "{% for m in messages %}{{ m.content | length }}{% endfor %}",
    ],
)
@pytest.mark.parametrize("system", ["be brief", None])
def test_instructions_that_are_left_out(template: str, system: str | None) -> None:
    loaded = byte_tokenizer(template=template)
    loaded.name_or_path = "folder"
    message = "folder: .* leaves out what the user says; .*--chat_template"
    with pytest.raises(RefusedMessages, match=message):
        encode_chat(loaded, "why?", system)


@pytest.mark.parametrize(
    ("template", "opening"),
    [
        (CHAT_TEMPLATE.partition("{% if add")[0], "<s>assistant "),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", "assistant: "),
        (CHAT_TEMPLATE.replace("{% if add_generation_prompt %}", "{% if true %}"), ""),
        ("{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}", ""),
        ("{{ messages[0].content }}", ""),
    ],
)
def test_templates_without_a_generation_prompt(template: str, opening: str) -> None:
    """The prompt ends with what the template itself writes before an answer."""
    loaded = byte_tokenizer(template=template)
    assert missing_generation_prompt(loaded) == opening
    messages = [{"role": "user", "content": "why?"}, {"role": "assistant", "content": "so"}]
    answered = loaded.apply_chat_template(messages, tokenize=False)
    prompt = loaded.decode(encode_chat(loaded, "why?"))
    assert prompt.endswith(opening)
    assert answered.startswith(f"{prompt}so" if opening else "")


@pytest.mark.parametrize("add_bos_token", [True, False])
@pytest.mark.parametrize("bos", ["{{ bos_token }}", ""])
def test_the_template_alone_writes_bos(bos: str, add_bos_token: bool) -> None:
    """Once or not at all, as in transformers, whatever the tokenizer does with other texts."""
    from tokenizers.processors import TemplateProcessing

    loaded = byte_tokenizer(template=bos + "{% for m in messages %}{{ m.content }}{% endfor %}")
    if add_bos_token:
        loaded.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", loaded.bos_token_id)]
        )
    assert (loaded.encode("a")[0] == loaded.bos_token_id) == add_bos_token
    prompt = encode_chat(loaded, "why?")
    messages = [{"role": "user", "content": "why?"}]
    assert prompt == loaded.apply_chat_template(messages, return_dict=False)
    assert prompt.count(loaded.bos_token_id) == bool(bos)
