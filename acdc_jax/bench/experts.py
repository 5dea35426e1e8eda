"""Fine-tuning: tokens per second of one expert and of several, beside a plain torch loop."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from acdc_jax import flags
from acdc_jax.bench import experts_peer
from acdc_jax.bench.limits import SHAPES, compilations, matmul_rate, peak_bytes
from acdc_jax.bench.table import Figures
from acdc_jax.bench.weights import ModelBench, random_weights
from acdc_jax.inference.memory import parameter_count
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.param_shardings import param_shardings
from acdc_jax.options import option
from acdc_jax.sharding import make_mesh
from acdc_jax.training import method as methods
from acdc_jax.training.batches import Batch, find_room, make_batch
from acdc_jax.training.examples import Example, PackedExamples
from acdc_jax.training.fit import init_states, steps_per_call, train_side_by_side
from acdc_jax.training.memory import plan_memory
from acdc_jax.training.optimizer import adamw
from acdc_jax.training.packing import pack

_BATCHES = 4  # whose rows are drawn from
_ZIPF = 1.2  # exponent of the tokens' frequencies


@dataclasses.dataclass(frozen=True)
class ExpertsBench(ModelBench):
    """Fine-tuning

    Attributes:
        experts: Numbers of experts that train side by side on one device.
        batch_tokens: Tokens of a step and expert, padding included.
        length: Tokens of a row.
        shortest: Tokens of the shortest conversation.
        longest: Tokens of the longest conversation.
        answers: Share of a conversation's tokens that are its answer.
        lora_rank: Rank of LoRA adapters; None: all weights are trained.
        steps: Steps that are timed.
        peer: Whether torch trains one expert, too; not with adapters.
    """

    experts: tuple[int, ...] = option((1, 5), "Experts that train side by side.", low=1)
    batch_tokens: int = option(16_384, "Tokens of a step and expert, padding included.", low=64)
    length: int = option(1024, "Tokens of a row.", low=64)
    shortest: int = option(60, "Tokens of the shortest conversation.", low=2)
    longest: int = option(480, "Tokens of the longest; lengths are uniform.", low=2)
    answers: float = option(0.2, "Share of a conversation that is its answer.", above=0, high=0.9)
    lora_rank: int | None = option(None, "Rank of LoRA adapters. none: train all weights.", low=1)
    steps: int = option(20, "Steps that are timed.", low=1)
    peer: bool = option(True, "Time transformers with torch.compile, too, if it is installed.")


SECTIONS = (ExpertsBench,)


def main(argv: Sequence[str]) -> None:
    """Run `acdc bench experts`."""
    (bench,), rest = flags.parse(SECTIONS, argv)
    flags.no_arguments(rest)
    config = SHAPES[bench.shape]
    examples = random_examples(bench, config.vocab_size)
    figures = Figures("what", "speed", "limit", "first call (compiled)", "peak memory")
    peers = dict[str, float]()
    if bench.peer and bench.lora_rank is None:  # first: JAX will allocate the memory
        peers = _time_peers(bench, config, examples, figures)
    limit = matmul_rate(config.dtype)
    weights = random_weights(config, 0)
    for experts in bench.experts:
        figures.add(*_time(bench, config, weights, examples, experts, limit, peers))
    figures.show(f"fine-tuning at {bench.shape}")


def random_examples(bench: ExpertsBench, vocabulary: int) -> list[Example]:
    """Return conversations of random tokens that fill the rows of all batches."""
    rng = np.random.default_rng(0)
    longest = min(bench.longest, bench.length)
    examples, tokens = list[Example](), 0
    while tokens < _BATCHES * bench.batch_tokens:
        size = int(rng.integers(min(bench.shortest, longest), longest + 1))
        answer = max(1, round(bench.answers * size))
        ids = (rng.zipf(_ZIPF, size) % vocabulary).tolist()  # as unequal as words are
        examples.append(Example(ids, [False] * (size - answer) + [True] * answer))
        tokens += size
    return examples


def _time_peers(
    bench: ExpertsBench, config: ModelConfig, examples: Sequence[Example], figures: Figures
) -> dict[str, float]:
    """Add rows of torch to the figures; return its tokens per second by name."""
    rates = dict[str, float]()
    for way in experts_peer.WAYS:
        speed = experts_peer.measure(
            way,
            config,
            examples,
            batch_tokens=bench.batch_tokens,
            length=bench.length,
            steps=bench.steps,
        )
        if speed is None:
            figures.add("transformers, torch.compile", "torch is not installed", "", "", "")
            break
        passes = f", {speed.parts} passes per step" if speed.parts > 1 else ""
        figures.add(
            f"transformers, torch.compile, 1 expert, {way} ({speed.attention}){passes}",
            f"{speed.tokens_per_second:,.0f} tok/s",
            "",
            "",
            "" if speed.peak_bytes is None else f"{speed.peak_bytes / 1e9:.1f} GB",
        )
        rates[way] = speed.tokens_per_second
    return rates


def _time(
    bench: ExpertsBench,
    config: ModelConfig,
    weights: dict[str, jax.Array],
    examples: Sequence[Example],
    experts: int,
    limit: float,
    peers: Mapping[str, float],
) -> tuple[str, ...]:
    """Return the row of a number of experts; `peers` are torch's rates by name."""
    mesh = make_mesh("pop:1", jax.devices()[:1])
    packed = pack(examples, bench.length)
    batches, answers, tokens = _batches(bench, packed, experts)
    rows = bench.batch_tokens // bench.length
    plan = plan_memory(config, bench.lora_rank, rows, bench.length, answers, 1, 1)
    if bench.lora_rank is None:
        method = methods.full(config, mesh, recompute=plan.recompute)
    else:
        method = methods.adapters(config, mesh, bench.lora_rank, 2.0, recompute=plan.recompute)
    optimizer = adamw(1e-5, 1, 10**6, 0.0, 1.0)
    base = jax.device_put(weights, param_shardings(mesh, config, population=False))
    keys = jax.random.split(jax.random.key(0), experts)
    with compilations() as compiled:
        start = time.perf_counter()
        state = init_states(method.init, base, optimizer, keys, method.shardings, mesh)
        run = train_side_by_side(method.loss, optimizer, mesh)
        shared = base if method.keeps_base else {}
        losses: Any = None
        for batch in batches:
            state, losses = run(state, shared, batch)
        jax.block_until_ready(losses)
        first = time.perf_counter() - start
    start = time.perf_counter()
    for call in range(bench.steps // steps_per_call(bench.steps)):
        state, losses = run(state, shared, batches[call % len(batches)])
    assert np.isfinite(np.asarray(losses)).all()
    seconds = (time.perf_counter() - start) / bench.steps
    # A product forward, and two backward; without adapters' base, which has no gradient.
    products = 6 if bench.lora_rank is None else 4
    work = products * (parameter_count(config) - _table_sizes(config)) * tokens
    work += 6 * config.vocab_size * config.hidden_size * tokens * bench.answers
    rate = work / seconds
    text = f"{rate / 1e12:,.1f} TFLOP/s = {rate / limit:.1%} of a matrix product"
    for way, peer in peers.items():
        text += f"; {tokens / seconds / peer:.2f} × torch {way}"
    peak, filled = peak_bytes(), tokens / (experts * rows * bench.length)
    return (
        f"{experts} expert{'s' if experts > 1 else ''}, rows {filled:.0%} filled"
        + (", layers computed again" if plan.recompute else ""),
        f"{tokens / seconds:,.0f} tok/s, {seconds * 1e3:.0f} ms per step",
        text,
        f"{first:.1f} s ({compiled.count} in {compiled.seconds:.1f} s)",
        "" if peak is None else f"{peak / 1e9:.1f} GB",
    )


def _table_sizes(config: ModelConfig) -> int:
    """Return the parameters of embedding and head."""
    return (1 if config.tie_embeddings else 2) * config.vocab_size * config.hidden_size


def _batches(
    bench: ExpertsBench, packed: PackedExamples, experts: int
) -> tuple[list[Batch], int, float]:
    """Return batches of two calls, their room for answers, and the tokens of a step."""
    count, steps = bench.batch_tokens // bench.length, steps_per_call(bench.steps)
    rng = np.random.default_rng(0)
    orders = rng.integers(0, len(packed.tokens), (2, experts, steps, count))
    room = find_room(packed, orders.reshape(-1, count))
    batches = [make_batch(packed, rows, room, SHAPES[bench.shape].vocab_size) for rows in orders]
    tokens = float((packed.segments[orders] > 0).sum() / (2 * steps))
    return jax.device_put(batches), room.answers, tokens
