"""A pretrained model, as people have it: SmolLM2-135M-Instruct, quantised, in a GGUF file."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest

import acdc_jax as acdc
from acdc_jax.inference.continuous_batching import GenerateOptions, generate_tokens
from acdc_jax.models.chat_template import encode_chat
from acdc_jax.models.tokenizer import decode

FOLDER = os.environ.get("ACDC_REAL_MODELS", "")
FILE = Path(FOLDER) / "SmolLM2-135M-Instruct.Q4_1.gguf"

pytestmark = [
    pytest.mark.xdist_group("torch"),
    pytest.mark.real,
    pytest.mark.skipif(
        not FOLDER, reason="ACDC_REAL_MODELS names no folder of models; .ci/run fetches them"
    ),
]

_QUESTIONS = ("What is the capital of France?", "Write one line of Python that prints 7.")


def test_smollm2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers, and token for token as transformers does with the dequantised weights.

    In float32: where two tokens are almost equally likely, bfloat16 decides by rounding.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = acdc.load_hf(FILE, dtype="float32")
    tokenizer, special = model.tokenizer, ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    assert tokenizer.convert_tokens_to_ids(special) == [0, 1, 2]
    assert (tokenizer.eos_token, model.stop_tokens) == ("<|im_end|>", (2,))
    text = "<|im_start|>user\nCafé – 1234 + 56\n\n\tdef f(): 🙂<|im_end|>"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.convert_ids_to_tokens(ids)[:2] == ["<|im_start|>", "user"]
    assert [t for t in tokenizer.convert_ids_to_tokens(ids) if t.isdigit()] == list("123456")

    prompts = [encode_chat(tokenizer, question) for question in _QUESTIONS]
    options = GenerateOptions(model.stop_tokens, tokenizer.pad_token_id, batch_size=8)
    ours: dict[int, list[int]] = {}
    for batch in generate_tokens(
        model.config, model.params, prompts, 24, jax.random.key(0), options
    ):
        ours |= dict(zip(batch.indices, map(list, batch.tokens[0]), strict=True))
    assert decode(tokenizer, ours[0]) == "The capital of France is Paris."

    acdc.save_hf(model, tmp_path / "dequantised")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "dequantised", dtype="float32")
    theirs_tokenizer = AutoTokenizer.from_pretrained(tmp_path / "dequantised")
    assert np.array_equal(
        theirs.model.embed_tokens.weight.detach().numpy(), model.params["embed.weight"]
    )
    for index, prompt in enumerate(prompts):
        messages = [{"role": "user", "content": _QUESTIONS[index]}]
        chat = theirs_tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        assert list(chat["input_ids"]) == prompt
        with torch.no_grad():
            written = theirs.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                do_sample=False,
                max_new_tokens=24,
            )
        answer = written[0, len(prompt) :].tolist()
        assert (answer[:-1] if answer[-1] == 2 else answer) == ours[index]
