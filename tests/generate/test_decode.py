"""The decoding loop: correctness, independence from the batch, compilations, stopping."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acdc_jax.errors import AcdcError
from acdc_jax.generate import decode
from acdc_jax.generate.batches import padded
from acdc_jax.generate.decode import generate
from acdc_jax.generate.sampling import Sampling
from acdc_jax.model.config import ModelConfig
from acdc_jax.model.transformer import Weights, forward, shapes

CONFIG = ModelConfig("LlamaForCausalLM", 40, 32, 48, 1, 4, 2, 8, max_positions=64)
MEMBERS = 3
RNG = np.random.default_rng(0)
POPULATION = {
    path: jnp.asarray(RNG.normal(size=(MEMBERS, *leaf.shape)) * leaf.shape[-1] ** -0.5, leaf.dtype)
    for path, leaf in shapes(CONFIG).items()
}
WEIGHTS = {path: leaf[0] for path, leaf in POPULATION.items()}
PROMPTS = [RNG.integers(0, 40, n).tolist() for n in (3, 11, 8, 1, 14, 9, 5, 12, 7, 2)]
NEW = 7


def respond(
    weights: Weights = WEIGHTS, prompts: list[list[int]] = PROMPTS, **changes: Any
) -> list[list[list[int]]]:
    """Responses by member and prompt, in the prompts' order."""
    arguments = {
        "stop_tokens": (),
        "pad_token": 0,
        "max_new_tokens": NEW,
        "sampling": Sampling(),
        "key": jax.random.key(5),
        "batch_size": 16,
        "population": None,
    }
    found: list[dict[int, list[int]]] = [{} for _ in range(changes.get("population") or 1)]
    for batch in generate(CONFIG, weights, prompts, **arguments | changes):
        for member, responses in zip(found, batch.tokens, strict=True):
            for i, tokens in zip(batch.indices, responses, strict=True):
                assert i not in member
                member[i] = tokens
    return [[member[i] for i in range(len(prompts))] for member in found]


def test_greedy_equals_forward_without_cache() -> None:
    """Each token is the most likely one after all before it."""
    width = max(map(len, PROMPTS)) + NEW
    texts = [p + r for p, r in zip(PROMPTS, respond()[0], strict=True)]
    tokens = np.array([t + [0] * (width - len(t)) for t in texts], np.int32)
    positions = np.broadcast_to(np.arange(width, dtype=np.int32), tokens.shape)
    best = np.argmax(forward(CONFIG, WEIGHTS, tokens, positions)[0], -1)
    for prompt, text, row in zip(PROMPTS, texts, best, strict=True):
        assert text[len(prompt) :] == row[len(prompt) - 1 : len(text) - 1].tolist()
        assert len(text) == len(prompt) + NEW


def test_a_response_does_not_depend_on_its_batch() -> None:
    """Another batch size, and fewer prompts behind it."""
    sampling = Sampling(0.7, 0.8)
    expected = respond(sampling=sampling)
    assert respond(sampling=sampling, batch_size=5) == expected
    assert respond(prompts=PROMPTS[:9], sampling=sampling) == [expected[0][:9]]


def test_sampling_depends_on_key_prompt_and_step() -> None:
    """And on nothing else."""
    same = [PROMPTS[0]] * 30
    first = respond(prompts=same, sampling=Sampling(1.0))
    assert first == respond(prompts=same, sampling=Sampling(1.0))
    assert first != respond(prompts=same, sampling=Sampling(1.0), key=jax.random.key(6))
    assert len(set(map(tuple, first[0]))) > 25
    greedy = respond(prompts=same)
    assert greedy == respond(prompts=same, key=jax.random.key(6))
    assert len(set(map(tuple, greedy[0]))) == 1


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0, 0.9)])
def test_population_equals_member_by_member(sampling: Sampling) -> None:
    """Member m with the m-th key of the split."""
    together = respond(POPULATION, population=MEMBERS, sampling=sampling)
    for m, key in enumerate(jax.random.split(jax.random.key(5), MEMBERS)):
        member = {path: leaf[m] for path, leaf in POPULATION.items()}
        assert respond(member, sampling=sampling, key=key) == [together[m]]
    assert together[0] != together[1]


def test_stop_tokens_cut_responses() -> None:
    """At the first of them, which is not part of the response."""
    free = respond(POPULATION, population=MEMBERS)
    stop = (free[0][0][2], free[1][4][0])
    for member, cut in zip(
        free, respond(POPULATION, population=MEMBERS, stop_tokens=stop), strict=True
    ):
        for whole, response in zip(member, cut, strict=True):
            ends = [i for i, token in enumerate(whole) if token in stop]
            assert response == whole[: min(ends, default=NEW)]


def _states(stop_tokens: tuple[int, ...]) -> tuple[Any, Any]:
    compiled_for = decode._Settings(stop_tokens, 0, NEW, Sampling(), False)
    tokens, valid = padded([PROMPTS[0], PROMPTS[2]], 8, 4, 0)
    before = decode._prefill(CONFIG, WEIGHTS, tokens, valid, None, compiled_for)
    with jax.transfer_guard("disallow"):
        return before, decode._decode(CONFIG, WEIGHTS, before, compiled_for)


def test_the_loop_ends_when_every_row_has() -> None:
    """Rows that only fill the batch do not keep it alive; all tokens stop at once here."""
    assert int(_states(())[1].step) == NEW
    assert int(_states(tuple(range(40)))[1].step) == 1


def test_the_cache_is_updated_in_place() -> None:
    """The state is donated, and the loop asks the host for nothing (see `_states`)."""
    before, after = _states(())
    assert before.cache.k[0].is_deleted()
    assert int(after.cache.length) == 8 + NEW - 1


def test_compilations() -> None:
    """One per bucket and batch size, whatever the prompts, keys and weights are."""
    decode._prefill.clear_cache()
    decode._decode.clear_cache()
    counts = []
    for lengths, key in (((3, 5, 9, 12, 8), 0), ((11, 12, 1, 1, 10), 1), ((9, 9, 9), 2)):
        prompts = [[1] * n for n in lengths]
        weights = {path: leaf[key] for path, leaf in POPULATION.items()}
        respond(weights, prompts, batch_size=4, key=jax.random.key(key))
        counts.append((decode._prefill._cache_size(), decode._decode._cache_size()))
    # (12, 4) alone: what does not fill a batch of bucket 8 goes along with bucket 12.
    assert counts == [(1, 1), (1, 1), (1, 1)]
    respond(prompts=[[1] * 20], batch_size=4)
    assert decode._decode._cache_size() == 2


def test_nothing_to_do() -> None:
    """No prompts, no batches."""
    assert respond(prompts=[]) == [[]]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"prompts": [[1], [2] * 58]}, "prompt 1 has 58 tokens.*64 positions leave room for 57"),
        ({"prompts": [[1]], "max_new_tokens": 99}, "prompt 0 has 1 token.*room for 0"),
        ({"prompts": [[1], []]}, "prompt 1 is empty"),
        ({"max_new_tokens": 0}, "must be positive"),
        ({"batch_size": 0}, "must be positive"),
    ],
)
def test_refusals(changes: dict[str, Any], named: str) -> None:
    """By the prompt's index."""
    arguments = {"max_new_tokens": NEW, "batch_size": 4, "prompts": PROMPTS} | changes
    with pytest.raises(AcdcError, match=named):  # at the call, before the first batch is asked for
        generate(
            CONFIG,
            WEIGHTS,
            stop_tokens=(),
            pad_token=0,
            sampling=Sampling(),
            key=jax.random.key(0),
            **arguments,
        )
