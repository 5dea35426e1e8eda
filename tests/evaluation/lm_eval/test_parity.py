"""Our engine and the harness's own HFLM give the same numbers on the same checkpoints and tasks."""

import random
import shutil
import string
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from lm_eval.api.instance import Instance

from acdc_jax.evaluation.lm_eval import lm as harness_lm
from acdc_jax.evaluation.lm_eval.lm import HarnessLM, HarnessModel, TextFormat
from acdc_jax.evaluation.lm_eval.tasks import Benchmark, Prompting, run_benchmark
from acdc_jax.inference.device_groups import DeviceGroups
from acdc_jax.models import hf, tokenizer
from acdc_jax.models.fused_weights import fuse_weights
from acdc_jax.sharding import make_mesh
from tests.support import harness_tasks
from tests.support.byte_tokenizer import byte_tokenizer
from tests.support.hf_checkpoints import SIZES, Checkpoint

# torch and the harness warn about their own dependencies.
pytestmark = [pytest.mark.xdist_group("torch"), pytest.mark.filterwarnings("ignore")]

_NAMES = ("gemma2", "begins")


def _text(rng: random.Random, length: int) -> str:
    return "".join(rng.choices(string.ascii_letters + string.digits + " ", k=length)).strip() or "a"


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> list[Benchmark]:
    """Choices of one and of many tokens, responses, and texts beyond the window of 128 tokens."""
    rng, folder = random.Random(0), tmp_path_factory.mktemp("tasks")
    choices = [
        {
            "question": _text(rng, rng.randint(1, 60)),
            "choices": list("ABCD") if i % 2 else [_text(rng, rng.randint(1, 9)) for _ in "123"],
            "answer": i % 3,
        }
        for i in range(12)
    ]
    # One is longer than the window: its beginning is cut off.
    questions = [
        {"question": _text(rng, n), "answer": "a"} for n in (3, 40, 9, 200, 22, 31, 5, 64, 12)
    ]
    texts = [{"text": _text(rng, n)} for n in (1, 30, 127, 128, 129, 400)]
    return harness_tasks.load(
        harness_tasks.write_task(folder, "choice", harness_tasks.CHOICE, choices),
        harness_tasks.write_task(folder, "generate", harness_tasks.GENERATE, questions),
        harness_tasks.write_task(folder, "rolling", harness_tasks.ROLLING, texts),
    )


@pytest.fixture(scope="module")
def folders(
    checkpoints: dict[str, Checkpoint], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Checkpoints by name; of one the tokenizer puts a begin-of-text token first."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    found = {name: checkpoints[name].folder for name in _NAMES if name in checkpoints}
    begins = tmp_path_factory.mktemp("begins") / "model"
    shutil.copytree(checkpoints["llama2"].folder, begins)
    tok = AutoTokenizer.from_pretrained(begins)
    tok.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    tok.save_pretrained(begins)
    return found | {"begins": begins}


def _ours(folder: Path, think_end_token: str | None = None) -> HarnessLM:
    config, tok = hf.read_config(folder), tokenizer.load_tokenizer(folder)
    params = fuse_weights(config, hf.load_weights(folder, config))
    text = TextFormat(tok, tokenizer.stop_tokens(folder, tok), think_end_token=think_end_token)
    groups = DeviceGroups.of_mesh(make_mesh("pop:1", jax.devices()[:1]))
    return HarnessLM(HarnessModel(folder.name, config, groups, [params], text, batch_size=16))


def _theirs(folder: Path, think_end_token: str | None = None) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(
        str(folder),
        device="cpu",
        dtype="float32",
        batch_size=16,
        think_end_token=think_end_token,
    )


def _responses(lm: Any, benchmark: Benchmark, *, chat: bool = False) -> list[Any]:
    found: Mapping[str, Any] = run_benchmark(lm, benchmark, Prompting(chat=chat))
    return [sample["resps"] for sample in found["samples"][benchmark.name]]


def _assert_equal(ours: Any, theirs: Any, name: str) -> None:
    choice, generate, rolling = ours
    assert generate == theirs[1], name
    np.testing.assert_allclose(np.ravel(rolling), np.ravel(theirs[2]), rtol=0, atol=1e-3)
    for one, other in zip(choice, theirs[0], strict=True):
        scores, greedy = zip(*(response for (response,) in one), strict=True)
        expected, expected_greedy = zip(*(response for (response,) in other), strict=True)
        np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-3)
        assert greedy == expected_greedy


@pytest.mark.parametrize("name", _NAMES)
def test_numbers(name: str, folders: dict[str, Path], benchmarks: list[Benchmark]) -> None:
    ours, theirs = _ours(folders[name]), _theirs(folders[name])
    expected = [_responses(theirs, benchmark) for benchmark in benchmarks]
    assert len({str(response) for response in expected[1]}) > 3
    _assert_equal([_responses(ours, benchmark) for benchmark in benchmarks], expected, name)


def test_confidence(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """How sure a model is of its response follows from the logits of transformers."""
    import torch

    generated: dict[tuple[int, ...], tuple[list[int], int]] = {}
    generate = harness_lm.generate_tokens

    def recorded(*arguments: Any) -> Any:
        for batch in generate(*arguments):
            for i, tokens, values in zip(
                batch.indices, batch.tokens[0], batch.log_probs[0], strict=True
            ):
                generated[tuple(arguments[2][i])] = tokens, len(values)
            yield batch

    monkeypatch.setattr(harness_lm, "generate_tokens", recorded)
    ours, theirs = _ours(folders["begins"]), _theirs(folders["begins"])
    kept: dict[str, tuple[float, float]] = {}

    class Hook:
        def add_partial(self, kind: str, arguments: tuple[Any, ...], value: Any) -> None:
            if kind == harness_lm.CONFIDENCE:
                kept[arguments[0]] = value

    ours.cache_hook = Hook()
    questions = ["a", "what?", "12 and 13"]
    arguments = {"until": ["zq"], "max_gen_toks": 7}
    ours.generate_until([Instance("generate_until", {}, (q, arguments), 0) for q in questions])
    assert set(kept) == set(questions)
    for question, confidence in kept.items():
        prompt = ours.tok_encode(question)
        tokens, count = generated[tuple(prompt)]
        assert count == len(tokens)  # no stop token
        with torch.no_grad():
            logits = theirs.model(torch.tensor([[*prompt, *tokens]])).logits[0].double()
        log_p = torch.log_softmax(logits[len(prompt) - 1 : -1], dim=-1).numpy()
        chosen = log_p[np.arange(count), tokens]
        certainty = -log_p.mean() - np.log(log_p.shape[1])
        assert confidence == pytest.approx((chosen.mean(), certainty), abs=1e-3)


def test_chat_templates(folders: dict[str, Path], benchmarks: list[Benchmark]) -> None:
    """Questions as dialogues: the same text, and no begin-of-text token twice."""
    ours, theirs = _ours(folders["begins"]), _theirs(folders["begins"])
    assert ours.chat_template(True) == theirs.chat_template(True)
    assert ours.tokenizer_name == theirs.tokenizer_name
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    text = ours.apply_chat_template(messages)
    assert text == theirs.apply_chat_template(messages)
    assert ours.tok_encode(text) == theirs.tok_encode(text)
    assert ours.tok_encode(text).count(1) == text.count("<s>")
    generate = benchmarks[1]
    assert _responses(ours, generate, chat=True) == _responses(theirs, generate, chat=True)


_THINK, _END = "<think>", "</think>"


def _says(folder: Path, tok: Any, *tokens: str) -> Path:
    """Write a model that goes on with the next of some different tokens, the last one for ever."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    rows, size = len(tok), 128
    sizes = {**SIZES, "hidden_size": size, "vocab_size": rows, "num_hidden_layers": 1}
    ends = {"eos_token_id": tok.eos_token_id, "pad_token_id": tok.pad_token_id}
    model = LlamaForCausalLM(LlamaConfig(**sizes | ends, num_key_value_heads=2))
    ids = tok.convert_tokens_to_ids(list(tokens))
    with torch.no_grad():
        vectors = torch.randn(rows, size, generator=torch.Generator().manual_seed(0))
        model.model.embed_tokens.weight.copy_(vectors / vectors.norm(dim=1, keepdim=True))
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        model.lm_head.weight.zero_()
        for token, following in pairwise([*ids, ids[-1]]):
            model.lm_head.weight[following] += model.model.embed_tokens.weight[token]
    model.save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("tokens", "until", "think_end_token", "answer"),
    [
        (("A", "B", _END, "C"), ["zz"], _END, "C"),
        ((_THINK, "A", _END, "C"), ["zz"], _END, "C"),
        (("A", "B", "[/THINK]", "C"), ["zz"], "[/THINK]", "C"),  # a special token
        (("A", "B", "C"), ["zz"], _END, "ABC"),
        (("A", "B", "<|im_end|>", "C", "D"), ["Q:", "</s>", "<|im_end|>"], None, "AB"),
        ((_THINK, "A", _END, "C", "</s>", "D"), ["Q:", "</s>"], _END, "C"),
    ],
)
def test_thoughts_and_stop_strings(
    tokens: tuple[str, ...],
    until: list[str],
    think_end_token: str | None,
    answer: str,
    tmp_path: Path,
) -> None:
    """The answer begins behind the thought, and ends at a special token that is a stop string."""
    from lm_eval.api.instance import Instance

    tok = byte_tokenizer(added=(_THINK, _END), special=("[/THINK]",))
    folder = _says(tmp_path / "model", tok, "x", *tokens, "<|endoftext|>")
    arguments = ("x", {"until": until, "max_gen_toks": 9})
    requests = [Instance("generate_until", {}, arguments, 0)]
    theirs = think_end_token
    if think_end_token == "[/THINK]":
        theirs = str(tok.convert_tokens_to_ids(think_end_token))  # it needs the id of such a token
    assert _theirs(folder, theirs).generate_until(requests) == [answer]
    assert _ours(folder, think_end_token).generate_until(requests) == [answer]
    assert _ours(folder).generate_until(requests) == [answer]
