"""Train the tiny base and its eight experts, and write them as Hugging Face folders.

The base learns every operation by its own word. Each expert then learns new words for a few
operations, almost only in the embedding rows of these words. That makes the experts' task vectors
additive. It is a construction for demonstrations and tests, and no evidence about large models.
"""

import dataclasses
import functools
import hashlib
import math
import random
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib

from acdc_jax.errors import AcdcError
from acdc_jax.models import hf_export
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.transformer import init_params, param_shapes
from acdc_jax.params import Params
from acdc_jax.prng import host_rng
from acdc_jax.quickstart.examples import (
    DrawWords,
    Examples,
    base_words,
    draw_examples,
    expert_words,
)
from acdc_jax.quickstart.language import EXPERTS, TRAIN_PAIRS
from acdc_jax.quickstart.tokenizer import FIRST_NEW_ROW, MAX_POSITIONS, TOKENS, save_tokenizer
from acdc_jax.runtime.seed_models import Progress, SeedSet
from acdc_jax.training.batches import Batch
from acdc_jax.training.fit import TrainState, train
from acdc_jax.training.loss import answer_loss, cast_params

TINY = ModelConfig(
    architecture="Qwen2ForCausalLM",
    vocab_size=len(TOKENS),
    hidden_size=96,
    intermediate_size=264,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=24,
    rope_theta=10_000.0,
    tie_embeddings=True,
    qkv_bias=True,
    max_positions=MAX_POSITIONS,
)

_STEPS_PER_CALL = 10


@dataclasses.dataclass(frozen=True)
class TrainRecipe:
    """The hyperparameters of the training. The cache is keyed by their names and values.

    Attributes:
        model: Architecture of the base and of the experts.
        experts: Own words of the operations whose new words each expert learns.
        learning_rate: Peak, reached after `warmup` steps; a cosine then lowers it to a tenth.
        warmup: Steps of linear warm-up.
        batch: Examples per step, drawn with replacement.
        b2: Adam's second-moment decay.
        base_steps: Steps of the base, with Muon.
        base_examples: Distinct examples of the base.
        base_pairs: Share of pairs among them.
        expert_steps: Steps of an expert, with Adam.
        expert_examples: Distinct examples of an expert.
        expert_replay: Share of the base's examples among them.
        expert_pairs: Share of pairs among the others.
        clip: Largest global gradient norm of an expert.
        body_rate: An expert's learning rate outside the new words' rows, relative to theirs.
    """

    model: ModelConfig = TINY
    experts: tuple[tuple[str, ...], ...] = EXPERTS
    learning_rate: float = 1e-2
    warmup: int = 20
    batch: int = 128
    b2: float = 0.98
    base_steps: int = 600
    base_examples: int = 40_000
    base_pairs: float = 0.4
    expert_steps: int = 60
    expert_examples: int = 8_000
    expert_replay: float = 0.2
    expert_pairs: float = 0.4
    clip: float = 1.0
    body_rate: float = 0.03


def cached_seeds(
    cache_dir: Path, prng_seed: int, progress: Progress, recipe: TrainRecipe = TrainRecipe()
) -> Path:
    """Return the folder of the seeds of a PRNG seed; train them if it does not exist."""
    out = cache_dir / cache_name(prng_seed, recipe)
    if not out.exists():
        train_seeds(out, prng_seed, progress, recipe)
    return out


def _make_tiny_seeds(
    cache_dir: Path, prng_seed: int, progress: Progress
) -> tuple[Path, tuple[Path, ...]]:
    """Return the folders of the base and of the experts; train them if they are not cached.

    Args:
        cache_dir: Where seeds are kept.
        prng_seed: PRNG seed of initial weights and examples.
        progress: Called as `progress(step, done, total)`.
    """

    def report(part: str, done: int, total: int) -> None:
        progress(f"training {part}", done, total)

    folder = cached_seeds(cache_dir, prng_seed, report)
    return folder / "base", tuple(folder / f"expert-{i}" for i in range(len(EXPERTS)))


TINY_SEEDS = SeedSet(TINY, len(EXPERTS), _make_tiny_seeds)


def cache_name(prng_seed: int, recipe: TrainRecipe) -> str:
    """Return a name with a hash of the recipe, so that a changed recipe is trained again."""
    digest = hashlib.sha256(repr((recipe, TOKENS, TRAIN_PAIRS)).encode()).hexdigest()
    return f"tiny-{prng_seed}-{digest[:10]}"


def train_seeds(
    out: Path, prng_seed: int, progress: Progress, recipe: TrainRecipe = TrainRecipe()
) -> None:
    """Train the seeds and write `base/`, `expert-0/`, … into `out`, all or nothing.

    Two processes may train the same folder: the first to finish writes it, and both succeed.

    Args:
        out: Folder to create; it may exist if it is empty.
        prng_seed: PRNG seed of initial weights and examples.
        progress: Called with "base" or "experts", the steps done, and all steps.
        recipe: The hyperparameters.

    Raises:
        AcdcError: `out` exists and is not empty, or cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise AcdcError(f"{out}: exists already; remove it, or name another folder")
    scratch = out.with_name(f".{out.name}-{uuid.uuid4().hex[:8]}")
    tokenizer = scratch / "tokenizer"
    try:
        tokenizer.mkdir(parents=True)  # before the training, in case it cannot be written
        save_tokenizer(tokenizer)
        for name, params in _train_all(prng_seed, progress, recipe).items():
            hf_export.save(scratch / name, recipe.model, params, tokenizer_from=tokenizer)
        shutil.rmtree(tokenizer)
        _publish(scratch, out)
    except OSError as error:
        raise AcdcError(f"{out}: cannot write: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _publish(scratch: Path, out: Path) -> None:
    try:
        scratch.rename(out)
    except OSError:
        if not (out / "base").is_dir():  # else another process was faster
            raise


def _train_all(prng_seed: int, progress: Progress, recipe: TrainRecipe) -> dict[str, Params]:
    """Return the base and the experts by folder name."""
    init_key, *keys = jax.random.split(jax.random.key(prng_seed), 2 + len(recipe.experts))
    rngs = [host_rng(key) for key in keys]

    own_words = base_words(recipe.base_pairs)
    examples = _examples(own_words, recipe.base_examples, rngs[0])
    fit = _make_fit(recipe, _base_optimizer(recipe), recipe.base_steps, learn_head=True)
    base = fit(
        init_params(recipe.model, init_key),
        examples,
        rngs[0],
        lambda done: progress("base", done, recipe.base_steps),
    )
    seeds = {"base": base}

    fit = _make_fit(recipe, _expert_optimizer(recipe), recipe.expert_steps, learn_head=False)
    total = recipe.expert_steps * len(recipe.experts)
    for i, (taught, rng) in enumerate(zip(recipe.experts, rngs[1:], strict=True)):
        words = expert_words(taught, own_words, recipe.expert_replay, recipe.expert_pairs)
        examples = _examples(words, recipe.expert_examples, rng)

        def report(done: int, before: int = i * recipe.expert_steps) -> None:
            progress("experts", before + done, total)

        seeds[f"expert-{i}"] = fit(base, examples, rng, report)
    return seeds


def _examples(words: DrawWords, n: int, rng: np.random.Generator) -> Examples:
    # Python's generator draws single words and characters ten times as fast as numpy's.
    return draw_examples(words, n, random.Random(int(rng.integers(2**62))))


def _make_fit(
    recipe: TrainRecipe, optimizer: optax.GradientTransformation, steps: int, *, learn_head: bool
) -> Callable[[Params, Examples, np.random.Generator, Callable[[int], None]], Params]:
    """Return a function that trains a copy of params on examples; all experts share one program."""
    steps_per_call = math.gcd(steps, _STEPS_PER_CALL)

    def loss(params: Params, batch: Batch) -> jax.Array:
        weights, table = cast_params(recipe.model, params, learn_head=learn_head)
        return answer_loss(recipe.model, weights, table, batch)

    @functools.partial(jax.jit, donate_argnums=0)  # only the latest state is needed
    def run(state: TrainState, batches: Batch) -> TrainState:
        return train(loss, optimizer, state, batches)[0]

    def fit(
        params: Params,
        examples: Examples,
        rng: np.random.Generator,
        report: Callable[[int], None],
    ) -> Params:
        params = jax.tree.map(jnp.copy, params)  # run() takes over its argument
        state = TrainState(params, optimizer.init(params))
        for done in range(0, steps, steps_per_call):
            report(done)
            rows = rng.integers(len(examples.tokens), size=(steps_per_call, recipe.batch))
            state = run(state, _batches(examples, rows))
            jax.block_until_ready(state)  # report steps done, not steps queued
        report(steps)
        return state.params

    return fit


def _batches(examples: Examples, rows: np.ndarray) -> Batch:
    """Return rows [steps, batch] of examples as one batch per step.

    Every token predicts the next one, and the answers' tokens count: examples are too short to
    choose among them first.
    """
    tokens, answer = examples.tokens[rows], examples.answer[rows]
    inputs: Any = tokens[..., :-1]
    steps, size = len(rows), inputs[0].size
    targets: Any = tokens[..., 1:].reshape(steps, size)
    counts: Any = answer[..., 1:].reshape(steps, size)
    return Batch(inputs, None, None, None, None, targets, counts)


def _schedule(recipe: TrainRecipe, steps: int) -> optax.Schedule:
    peak = recipe.learning_rate
    return optax.warmup_cosine_decay_schedule(0.0, peak, recipe.warmup, steps, 0.1 * peak)


def _base_optimizer(recipe: TrainRecipe) -> optax.GradientTransformation:
    """Return Muon for matrices ([out, in]; the embedding is [in, out]) and Adam for the rest.

    Source: Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024);
    `optax.contrib.muon`.
    """
    dimensions = {
        name: None
        if len(leaf.shape) < 2
        else contrib.MuonDimensionNumbers(0, 1)
        if name == "embed.weight"
        else contrib.MuonDimensionNumbers(1, 0)
        for name, leaf in param_shapes(recipe.model).items()
    }
    return contrib.muon(
        _schedule(recipe, recipe.base_steps),
        adam_b2=recipe.b2,
        muon_weight_dimension_numbers=dimensions,
    )


def _expert_optimizer(recipe: TrainRecipe) -> optax.GradientTransformation:
    """Return Adam at the full rate for the new words' rows, and much slower for the rest."""

    def slow_body(updates: Params) -> Params:
        slowed = {name: recipe.body_rate * update for name, update in updates.items()}
        rows = updates["embed.weight"][FIRST_NEW_ROW:]
        slowed["embed.weight"] = slowed["embed.weight"].at[FIRST_NEW_ROW:].set(rows)
        return slowed

    return optax.chain(
        optax.clip_by_global_norm(recipe.clip),
        optax.adam(_schedule(recipe, recipe.expert_steps), b2=recipe.b2),
        optax.stateless(lambda updates, _: slow_body(updates)),
    )
