"""Tokenizers, chat templates and stop tokens."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import pytest

from acdc_jax.errors import AcdcError
from acdc_jax.models import hf, tokenizer
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.transformer import init_params
from tests.support.hf_checkpoints import CHAT_TEMPLATE
from tests.support.short_runs import without_torch

pytestmark = pytest.mark.xdist_group("torch")  # transformers imports torch where it finds it


def test_chat(chat_tokenizer_folder: Path) -> None:
    """The template's special tokens are tokens, and the generation prompt is there."""
    loaded = tokenizer.load_tokenizer(chat_tokenizer_folder)
    prompt = tokenizer.encode_chat(loaded, "why?", "be brief")
    assert loaded.decode(prompt) == "<s>system be brief</s><s>user why?</s><s>assistant "
    assert prompt.count(1) == 3
    assert tokenizer.encode_chat(loaded, "why?") == prompt[prompt.index(1, 1) :]
    assert tokenizer.decode(loaded, [*loaded.encode("a b: c"), 2, 0]) == "a b: c"


def test_stop_tokens(chat_tokenizer_folder: Path, tmp_path: Path) -> None:
    """The tokenizer's and the configurations', whichever there are."""
    loaded = tokenizer.load_tokenizer(chat_tokenizer_folder)
    assert tokenizer.stop_tokens(tmp_path, loaded) == (2,)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [9, 2]}))
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 7}))
    assert tokenizer.stop_tokens(tmp_path, loaded) == (2, 7, 9)
    loaded.eos_token = None
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(AcdcError, match="no end-of-sequence token"):
        tokenizer.stop_tokens(tmp_path, loaded)


def test_bad_folders(chat_tokenizer_folder: Path, tmp_path: Path) -> None:
    """One line that names the folder."""
    with pytest.raises(AcdcError, match="no such folder"):
        tokenizer.load_tokenizer(tmp_path / "none")
    with pytest.raises(AcdcError, match="cannot load the tokenizer") as caught:
        tokenizer.load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
    shutil.copytree(chat_tokenizer_folder, tmp_path / "bad")
    (tmp_path / "bad" / "tokenizer.json").write_text("{")
    with pytest.raises(AcdcError, match="bad: cannot load the tokenizer"):
        tokenizer.load_tokenizer(tmp_path / "bad")


def test_bad_chat_templates(chat_tokenizer_folder: Path) -> None:
    """Missing, or refusing the messages."""
    loaded = tokenizer.load_tokenizer(chat_tokenizer_folder)
    loaded.chat_template = "{{ raise_exception('no system message') }}"
    with pytest.raises(AcdcError, match="chat template: no system message"):
        tokenizer.encode_chat(loaded, "why?", "be brief")
    loaded.chat_template = None
    with pytest.raises(AcdcError, match="no chat template"):
        tokenizer.encode_chat(loaded, "why?")


def test_save_beside_a_bare_tokenizer(chat_tokenizer_folder: Path, tmp_path: Path) -> None:
    """Without a configuration to copy from, the tokenizer says where responses end."""
    config = ModelConfig("LlamaForCausalLM", 99, 8, 8, 1, 1, 1, 8)
    hf.save(tmp_path / "out", config, init_params(config, jax.random.key(0)), chat_tokenizer_folder)
    loaded = tokenizer.load_tokenizer(tmp_path / "out")
    assert loaded.chat_template == CHAT_TEMPLATE
    for name in ("generation_config.json", "config.json"):
        fields = tokenizer.read_json(tmp_path / "out" / name)
        assert (fields["bos_token_id"], fields["eos_token_id"], fields["pad_token_id"]) == (1, 2, 0)


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
    loaded = tokenizer.load_tokenizer(chat_tokenizer_folder)
    loaded.chat_template = f"{day} {CHAT_TEMPLATE}"
    prompt = loaded.decode(tokenizer.encode_chat(loaded, "why?"))
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
    loaded = tokenizer.load_tokenizer(chat_tokenizer_folder)
    loaded.chat_template = template
    with pytest.raises(AcdcError, match=f"{chat_tokenizer_folder}: chat template: .*{reason}"):
        tokenizer.encode_chat(loaded, "why?", "briefly")


def test_special_tokens_of_a_generation_configuration(
    chat_tokenizer_folder: Path, tmp_path: Path
) -> None:
    """What it lacks config.json says, and the tokenizer, where neither says how responses end."""
    source = Path(shutil.copytree(chat_tokenizer_folder, tmp_path / "source"))
    config = ModelConfig("LlamaForCausalLM", 99, 8, 8, 1, 1, 1, 8)
    weights = init_params(config, jax.random.key(0))

    def saved(name: str, generation: str, own: str) -> list[int | list[int] | None]:
        (source / "generation_config.json").write_text(generation)
        (source / "config.json").write_text(own)
        hf.save(tmp_path / name, config, weights, source)
        files = ("generation_config.json", "config.json")
        first, second = (tokenizer.read_json(tmp_path / name / file) for file in files)
        found = [first.get(f"{token}_token_id") for token in ("bos", "eos", "pad")]
        assert found == [second.get(f"{token}_token_id") for token in ("bos", "eos", "pad")]
        assert first.get("top_p") == 0.8
        return found

    assert saved("a", '{"top_p": 0.8, "eos_token_id": null}', '{"eos_token_id": [2, 7]}') == [
        *(None, [2, 7], None)
    ]
    both = '{"eos_token_id": 2, "bos_token_id": 5}'
    assert saved("b", '{"top_p": 0.8, "eos_token_id": [9]}', both) == [5, [9], None]
    assert saved("c", '{"top_p": 0.8}', '{"bos_token_id": 5}') == [5, 2, 0]


_WITHOUT_TORCH = """
import sys
import acdc_jax.models.hf, acdc_jax.inference.continuous_batching
assert "transformers" not in sys.modules
from acdc_jax.models.tokenizer import encode_chat, load_tokenizer
print(len(encode_chat(load_tokenizer(sys.argv[1]), "why?")))
"""


def test_torch_is_not_needed(chat_tokenizer_folder: Path) -> None:
    """transformers comes with the first tokenizer, without torch and without complaining."""
    done = without_torch(_WITHOUT_TORCH, str(chat_tokenizer_folder))
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "22\n")
