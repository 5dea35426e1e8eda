"""Generation: correctness, independence from the batch, compilations, stopping."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acdc_jax.errors import AcdcError
from acdc_jax.inference import all_reduce_trial, continuous_batching, memory, steps
from acdc_jax.inference.continuous_batching import (
    Batch,
    GenerateOptions,
    PromptError,
    generate_tokens,
)
from acdc_jax.inference.sampling import Sampling
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.fused_weights import fuse_weights
from acdc_jax.models.kernels.options import XLA_ONLY
from acdc_jax.models.kernels.peer_all_reduce import PeerInboxes, allocate_inboxes
from acdc_jax.models.param_shardings import param_shardings
from acdc_jax.models.transformer import FusedParams, forward, param_shapes
from acdc_jax.params import Params
from acdc_jax.sharding import make_mesh

CONFIG = ModelConfig("LlamaForCausalLM", 40, 32, 48, 1, 4, 2, 8, max_positions=64)
MEMBERS = 3
RNG = np.random.default_rng(0)
POPULATION = {
    path: jnp.asarray(RNG.normal(size=(MEMBERS, *leaf.shape)) * leaf.shape[-1] ** -0.5, leaf.dtype)
    for path, leaf in param_shapes(CONFIG).items()
}
WEIGHTS = {path: leaf[0] for path, leaf in POPULATION.items()}
PROMPTS = [RNG.integers(0, 40, n).tolist() for n in (3, 11, 8, 1, 14, 9, 5, 12, 7, 2)]
NEW = 7


def batches(
    weights: Params | FusedParams = WEIGHTS,
    prompts: list[list[int]] = PROMPTS,
    config: ModelConfig = CONFIG,
    **changes: Any,
) -> list[Batch]:
    """All batches, in the order in which they came."""
    arguments = {"max_new_tokens": NEW, "key": jax.random.key(5)} | changes
    limit, key = arguments.pop("max_new_tokens"), arguments.pop("key")
    options = GenerateOptions(**{"stop_tokens": (), "pad_token": 0, "batch_size": 16} | arguments)
    return list(generate_tokens(config, weights, prompts, limit, key, options))


def respond(
    weights: Params | FusedParams = WEIGHTS,
    prompts: list[list[int]] = PROMPTS,
    *,
    values: str = "tokens",
    **changes: Any,
) -> list[list[list[Any]]]:
    """Responses (or other values) by member and prompt, in the prompts' order."""
    found: list[dict[int, list[Any]]] = [{} for _ in range(changes.get("population") or 1)]
    for batch in batches(weights, prompts, **changes):
        for member, responses in zip(found, getattr(batch, values), strict=True):
            for i, tokens in zip(batch.indices, responses, strict=True):
                assert i not in member
                member[i] = tokens
    return [[member[i] for i in range(len(prompts))] for member in found]


def logits_of(
    weights: Params, texts: list[list[int]], config: ModelConfig = CONFIG
) -> np.ndarray[Any, Any]:
    """Logits [text, token, vocabulary] without a cache; texts are padded on the right."""
    width = max(map(len, texts))
    tokens = np.array([text + [0] * (width - len(text)) for text in texts], np.int32)
    positions = np.broadcast_to(np.arange(width, dtype=np.int32), tokens.shape)
    return np.asarray(jax.jit(forward, static_argnums=0)(config, weights, tokens, positions)[0])


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"windows": (4,), "attention_softcap": 3.0, "logit_softcap": 5.0, "qk_norm": True},
    ],
)
def test_greedy_equals_forward_without_cache(fields: dict[str, Any]) -> None:
    """Each token is the most likely one after all before it, also in a slot used before."""
    config = dataclasses.replace(CONFIG, **fields)
    rng = np.random.default_rng(1)
    weights = WEIGHTS | {
        path: jnp.asarray(rng.normal(size=leaf.shape) * 0.3, leaf.dtype)
        for path, leaf in param_shapes(config).items()
        if path not in WEIGHTS
    }
    responses = respond(weights, config=config, batch_size=3)[0]
    texts = [p + r for p, r in zip(PROMPTS, responses, strict=True)]
    best = np.argmax(logits_of(weights, texts, config), -1)
    for prompt, text, row in zip(PROMPTS, texts, best, strict=True):
        assert text[len(prompt) :] == row[len(prompt) - 1 : len(text) - 1].tolist()
        assert len(text) == len(prompt) + NEW


def test_slots_are_used_again() -> None:
    """Responses of many lengths through few slots; they are yielded as they end."""
    limits = [(3, 30, 1, 12, 9)[i % 5] for i in range(len(PROMPTS))]
    free = respond(max_new_tokens=30, prompts=[p[:8] for p in PROMPTS])[0]
    expected = [whole[:limit] for whole, limit in zip(free, limits, strict=True)]
    prompts = [p[:8] for p in PROMPTS]
    assert respond(prompts=prompts, max_new_tokens=limits, batch_size=3) == [expected]
    came = [i for batch in batches(prompts=prompts, max_new_tokens=limits) for i in batch.indices]
    assert {came[-1], came[-2]} == {1, 6}


def test_a_common_prefix_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as all prompts agree, and all but one token of the shortest; the responses stay."""
    common = RNG.integers(0, 40, 11).tolist()
    prompts = [common + p[:6] for p in PROMPTS] + [common]
    seen = []
    init_state = steps.init_state
    monkeypatch.setattr(
        continuous_batching,
        "init_state",
        lambda s, *rest: (seen.append(s.prefix), init_state(s, *rest))[1],
    )
    expected = respond(POPULATION, prompts, population=MEMBERS)
    assert respond(POPULATION, prompts, population=MEMBERS, prefix=30, batch_size=3) == expected
    assert respond(WEIGHTS, prompts[:-1], prefix=9) == [expected[0][:-1]]
    assert seen == [0, 10, 9]


def test_stopped() -> None:
    """The host ends responses; slots of those that it ended are used again."""
    free = respond(POPULATION, population=MEMBERS, max_new_tokens=25)
    stop = free[1][4][9]
    cut = respond(
        POPULATION,
        population=MEMBERS,
        max_new_tokens=25,
        batch_size=3,
        stopped=lambda tokens: stop in tokens,
    )
    for wholes, parts in zip(free, cut, strict=True):
        for whole, part in zip(wholes, parts, strict=True):
            assert part == whole[: len(part)]
            assert len(part) == 25 or stop in part
            assert stop not in part[:-9]  # looked at every eight tokens, after the first
    assert any(len(r) < 25 for m in cut for r in m)


def test_log_probs() -> None:
    """Of the model itself, whatever the sampling; the stop token's included."""
    sampling = Sampling(0.7, 0.9, 10)
    stop = respond(sampling=sampling)[0][0][3:4]
    arguments = {"sampling": sampling, "log_probs": True, "stop_tokens": tuple(stop)}
    found = batches(**arguments)

    def gathered(values: str) -> list[list[Any]]:
        own = {
            i: value
            for batch in found
            for i, value in zip(batch.indices, getattr(batch, values)[0], strict=True)
        }
        return [own[i] for i in range(len(PROMPTS))]

    responses, chosen, mean = map(gathered, ("tokens", "log_probs", "mean_log_probs"))
    ended = [r + stop if len(r) < NEW else r for r in responses]
    logits = logits_of(WEIGHTS, [p + r for p, r in zip(PROMPTS, ended, strict=True)])
    wide = logits.astype(np.float64)
    log_probs = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    for i, (prompt, response) in enumerate(zip(PROMPTS, ended, strict=True)):
        rows = log_probs[i, len(prompt) - 1 :][: len(response)]
        np.testing.assert_allclose(chosen[i], rows[np.arange(len(response)), response], atol=1e-4)
        np.testing.assert_allclose(mean[i], rows.mean(-1), atol=1e-4)
    assert any(len(r) < NEW for r in responses)


def test_fuse_weights_gives_the_same_responses() -> None:
    """Large members are decoded from fused weights."""
    assert respond(fuse_weights(CONFIG, WEIGHTS)) == respond()


def test_a_response_does_not_depend_on_its_batch() -> None:
    """Another batch size, and fewer prompts behind it."""
    sampling = Sampling(0.7, 0.8)
    expected = respond(sampling=sampling)
    assert respond(sampling=sampling, batch_size=5) == expected
    assert respond(prompts=PROMPTS[:9], sampling=sampling) == [expected[0][:9]]
    # A prompt that comes at another place keeps its draws if it keeps its number.
    rest = {"prompts": PROMPTS[4:9], "sampling": sampling}
    assert respond(**rest, numbers=range(4, 9)) == [expected[0][4:9]]
    assert respond(**rest) != [expected[0][4:9]]


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


def _settings(**changes: Any) -> steps.StepSettings:
    fields = {
        "model": CONFIG,
        "stop_tokens": (),
        "pad_token": 0,
        "max_new_tokens": NEW,
        "sampling": Sampling(),
        "population": False,
        "prefix": 0,
        "steps": 4,
        "early_exit": True,
        "log_probs": False,
        "placement": None,
        "kernels": XLA_ONLY,
    }
    return steps.StepSettings(**fields | changes)


@pytest.mark.parametrize("early_exit", [True, False])
@pytest.mark.parametrize(("limit", "count"), [(3, 3), (99, 5)])
def test_a_call_of_decode(early_exit: bool, limit: int, count: int) -> None:
    """At most `steps` tokens; the cache is updated in place, without transfers to the host."""
    settings = _settings(early_exit=early_exit)
    key, none = jax.random.key(0), jnp.zeros((0,), jnp.int32)
    state = steps.init_state(settings, 1, 3, 16, WEIGHTS, none, key)
    column = [jnp.asarray(values, jnp.int32) for values in ([2, 1], [2, 5], [limit] * 2, [0, 0])]
    prompts = steps.Prompts(jnp.ones((2, 8), jnp.int32), *column)
    before = steps.prefill(settings, WEIGHTS, state, prompts, key)
    assert before.sampled.done.tolist() == [[True, True, False]]  # slot 5 does not exist
    cancelled = jnp.zeros((1, 3), bool)
    with jax.transfer_guard("disallow"):
        after, sampled = steps.decode(settings, WEIGHTS, before, cancelled)
    assert before.cache.k[0].is_deleted()
    assert not sampled.tokens.is_deleted()
    assert sampled.count.tolist() == [0, 0, count]
    assert after.position.tolist()[2] in (2 + count - 1, 0)
    assert bool(sampled.done[0, 2]) == (limit == 3)


def test_compilations() -> None:
    """One per bucket and batch size, whatever the prompts, keys and weights are."""
    for step in (steps.init_state, steps.prefill, steps.decode):
        step.clear_cache()
    counts = []
    for lengths, key in (((3, 5, 9, 12, 8), 0), ((11, 12, 1, 1, 10), 1), ((9, 9, 9), 2)):
        prompts = [[1] * n for n in lengths]
        weights = {path: leaf[key] for path, leaf in POPULATION.items()}
        respond(weights, prompts, batch_size=4, key=jax.random.key(key))
        counts.append(
            [step._cache_size() for step in (steps.init_state, steps.prefill, steps.decode)]
        )
    # Of a small model, what does not fill a group of bucket 8 goes along with bucket 12.
    assert counts == [[1, 1, 1]] * 3
    respond(prompts=[[1] * 20], batch_size=4)
    assert steps.decode._cache_size() == 2


def test_a_large_model_reads_few_prompts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its groups are small, by bucket, and compiled for in the first generation."""
    expected = respond()
    monkeypatch.setattr(continuous_batching, "_PREFILL_WORK", memory.parameter_count(CONFIG) * 24.0)
    steps.prefill.clear_cache()
    assert respond(batch_size=4) == expected
    assert steps.prefill._cache_size() == 3  # buckets of 8, 12 and 16
    assert respond(prompts=PROMPTS[::-1], batch_size=4) == [expected[0][::-1]]
    assert steps.prefill._cache_size() == 3


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """With less memory, fewer slots and the same responses; too little for one slot is an error."""
    expected = respond()
    seen = []
    init_state = steps.init_state
    monkeypatch.setattr(
        continuous_batching,
        "init_state",
        lambda s, m, b, *rest: (seen.append(b), init_state(s, m, b, *rest))[1],
    )
    one = 24 * memory.token_bytes(CONFIG) + 12 * CONFIG.vocab_size
    reading = continuous_batching._PREFILL_TOKENS * (4 * 32 + 3 * 48) * 4
    monkeypatch.setattr(memory, "free_bytes", lambda _: int((reading + 5.5 * one) / 0.94))
    assert respond() == expected
    assert seen == [4]
    monkeypatch.setattr(memory, "free_bytes", lambda _: int(reading / 0.94))
    with pytest.raises(AcdcError, match=r"24 tokens needs 0.00 GiB.* lower max_new_tokens"):
        respond()


def test_sums_through_peer_inboxes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same responses; here no kernel runs, and XLA adds up the partial sums."""
    mesh = make_mesh("model:2", jax.devices()[:2])
    placed = jax.device_put(WEIGHTS, param_shardings(mesh, CONFIG, population=False))
    fused_params = fuse_weights(CONFIG, placed)
    expected = [batch.tokens for batch in batches(fused_params)]
    asked = []

    def choose_inboxes(
        settings: steps.StepSettings, params: FusedParams, slots: int
    ) -> PeerInboxes:
        assert all_reduce_trial.choose_inboxes(settings, params, slots) is None  # no GPUs
        asked.append(slots)
        return allocate_inboxes(mesh, "model", slots, CONFIG.hidden_size)

    monkeypatch.setattr(continuous_batching, "choose_inboxes", choose_inboxes)
    assert [batch.tokens for batch in batches(fused_params)] == expected
    assert asked


def test_memory_is_that_of_the_members_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another group of devices may have more, or less."""
    asked = set[jax.Device]()
    free = memory.free_bytes
    monkeypatch.setattr(memory, "free_bytes", lambda d: (asked.add(d), free(d))[1])
    there = jax.devices()[2]
    weights = jax.device_put(WEIGHTS, there)
    options = GenerateOptions((), pad_token=0, batch_size=16)
    generate_tokens(CONFIG, weights, PROMPTS, NEW, jax.random.key(5), options)
    assert asked == {there}


def test_shapes_of_later_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few short prompts have the shapes of many long ones, where compiling takes longer."""

    def shapes(prompts: list[list[int]], **room: int) -> tuple[int, int]:
        options = GenerateOptions((), 0, 16, kernels=XLA_ONLY, **room)
        limits = [NEW] * len(prompts)
        request = continuous_batching._Request(
            CONFIG, WEIGHTS, prompts, limits, jax.random.key(0), options
        )
        plan = continuous_batching._plan(request)
        return plan.slots, plan.length

    long, short, room = [[1] * 99] * 20, [[1] * 3], {"least_prompts": 20, "least_length": 99}
    assert shapes(short, **room) == shapes(short) < shapes(long)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert shapes(short, **room) == shapes(long) == shapes(long, **room) > shapes(short)


def test_choose_population(monkeypatch: pytest.MonkeyPatch) -> None:
    """All children where they fit into half of the devices, else one by one; so do large ones."""
    one = memory.weight_bytes(CONFIG) + 4096 * memory.token_bytes(CONFIG)
    room = 64 * one
    monkeypatch.setattr(memory, "total_bytes", lambda _: room)
    assert [memory.choose_population(CONFIG, c, 1)[0] for c in (1, 32, 33)] == [1, 32, 1]
    assert [memory.choose_population(CONFIG, c, 2)[0] for c in (33, 64, 65)] == [33, 64, 1]
    room = 64 * memory.weight_bytes(CONFIG) - 64
    population, why = memory.choose_population(CONFIG, 2, 1)
    assert population == 1
    assert "keeps a device busy" in why
    assert memory.choose_population(CONFIG, 2, 2)[0] == 2


def test_nothing_to_do() -> None:
    """No prompts, no batches."""
    assert batches(prompts=[]) == []


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
    options = GenerateOptions((), pad_token=0, batch_size=arguments["batch_size"])
    prompts, limit = arguments["prompts"], arguments["max_new_tokens"]
    kind = PromptError if named.startswith("prompt") else ValueError
    with pytest.raises(kind, match=named):  # at the call, before the first batch is asked for
        generate_tokens(CONFIG, WEIGHTS, prompts, limit, jax.random.key(0), options)
