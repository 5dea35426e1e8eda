"""Loss, gradients and optimizer steps, against transformers, torch and PEFT in float32."""

import copy
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acdc_jax.models import hf
from acdc_jax.models.config import ModelConfig
from acdc_jax.params import Params
from acdc_jax.training import lora
from acdc_jax.training.batches import Batch, Room, make_batch
from acdc_jax.training.fit import TrainState, train
from acdc_jax.training.loss import (
    _cross_entropy,
    _cross_entropy_without_scatter,
    _sum_of_losses,
    answer_loss,
    cast_params,
)
from acdc_jax.training.optimizer import adamw
from tests.support.hf_checkpoints import Checkpoint
from tests.training.packed import VOCABULARY, in_rows, random_conversations

pytestmark = pytest.mark.xdist_group("torch")  # one process imports torch, not each

LENGTHS = [24, 9, 5, 30, 12]
CONVERSATIONS = random_conversations(LENGTHS)
PACKED = in_rows(CONVERSATIONS, [[0, 1, 2], [3], [4]], 40)
BATCH = make_batch(PACKED, np.arange(3), Room(60, 90), VOCABULARY)


def torch_loss(model: Any) -> Any:
    """The mean loss of the answers, each conversation alone."""
    import torch

    total, count = torch.zeros(()), 0
    for tokens, answer in CONVERSATIONS:
        logits = model(torch.tensor(tokens[None]).long()).logits[0, :-1]
        counted = answer[1:]
        total = total + torch.nn.functional.cross_entropy(
            logits[counted], torch.tensor(tokens[1:][counted]).long(), reduction="sum"
        )
        count += int(counted.sum())
    return total / count


def load(checkpoint: Checkpoint) -> tuple[ModelConfig, Params]:
    config = hf.read_config(checkpoint.folder)
    return config, hf.load_weights(checkpoint.folder, config)


def full_loss(config: ModelConfig, params: Params, batch: Batch) -> jax.Array:
    return answer_loss(config, *cast_params(config, params), batch)


def in_torch(model: Any, config: ModelConfig, what: str) -> dict[str, np.ndarray]:
    """Our path → values or gradients of torch's parameters."""
    named = dict(model.named_parameters())
    return {
        path: (named[name].grad if what == "grad" else named[name].data).numpy().copy()
        for path, name in hf.hf_names(config).items()
    }


def assert_close(ours: Any, theirs: dict[str, np.ndarray], rtol: float) -> None:
    for path, values in theirs.items():
        scale = np.abs(values).max()
        np.testing.assert_allclose(ours[path], values, atol=rtol * scale, rtol=0, err_msg=path)


@pytest.mark.parametrize(
    "name",
    ["qwen2-tied", "qwen2-window", "qwen3-biased", "llama3", "mistral", "gemma2", "gemma3"],
)
def test_loss_and_gradients(checkpoints: dict[str, Checkpoint], name: str) -> None:
    """Packed here, one by one in torch; every family, tied and untied, with windows and caps."""
    checkpoint = checkpoints[name]
    config, params = load(checkpoint)
    value, gradient = jax.jit(jax.value_and_grad(partial(full_loss, config)))(params, BATCH)
    model = copy.deepcopy(checkpoint.model)
    loss = torch_loss(model)
    loss.backward()
    np.testing.assert_allclose(value, loss.item(), rtol=1e-5)
    assert_close(gradient, in_torch(model, config, "grad"), 2e-4)


def test_steps_of_adamw(checkpoints: dict[str, Checkpoint]) -> None:
    """Warm-up, cosine, clipping and decay: torch's optimizer makes the same weights."""
    import torch
    import transformers

    config, params = load(checkpoints["qwen2-tied"])
    peak, warmup, steps, decay, clip = 1e-2, 2, 6, 0.1, 0.5
    optimizer = adamw(peak, warmup, steps, decay, clip)
    state = TrainState(params, optimizer.init(params))
    batches: Batch = jax.tree.map(lambda x: np.stack([x] * steps), BATCH)
    run = jax.jit(partial(train, partial(full_loss, config), optimizer))
    new, losses = run(state, batches)

    model = copy.deepcopy(checkpoints["qwen2-tied"].model)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    theirs = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=peak,
    )
    schedule = transformers.get_cosine_schedule_with_warmup(theirs, warmup, steps)
    for step in range(steps):
        loss = torch_loss(model)
        np.testing.assert_allclose(losses[step], loss.item(), rtol=1e-4)
        theirs.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        assert norm > clip  # so that clipping is tested
        theirs.step()
        schedule.step()
    before = in_torch(checkpoints["qwen2-tied"].model, config, "data")
    after = in_torch(model, config, "data")
    changes = {path: after[path] - before[path] for path in after}
    assert_close({path: new.params[path] - before[path] for path in after}, changes, 2e-3)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers, about PEFT
@pytest.mark.parametrize("name", ["llama3", "gemma2"])
def test_lora(checkpoints: dict[str, Checkpoint], name: str) -> None:
    """From the same A, B and optimizer, PEFT makes the same adapter; merged, it is the same."""
    import peft
    import torch

    config, params = load(checkpoints[name])
    rank, alpha, steps, rate = 4, 12.0, 4, 1e-2
    adapter = lora.init_adapter(config, rank, jax.random.key(0))
    model = peft.get_peft_model(
        copy.deepcopy(checkpoints[name].model),
        peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear"),
    )
    names = hf.hf_names(config)
    leaves = dict(model.named_parameters())
    modules = {path: f"base_model.model.{names[path].removesuffix('.weight')}" for path in names}
    pairs = {
        f"{path}.{leaf}": leaves[f"{modules[path]}.lora_{leaf.upper()}.default.weight"]
        for path in lora.projections(config)
        for leaf in "ab"
    }
    assert len(pairs) == sum(p.requires_grad for p in model.parameters()) == len(adapter)
    with torch.no_grad():
        for path, leaf in pairs.items():
            assert leaf.shape == adapter[path].shape
            leaf.copy_(torch.tensor(np.array(adapter[path])))

    def loss(adapter: Params, batch: Batch) -> jax.Array:
        matrices = lora.low_rank(config, adapter, alpha / rank)
        table = params["embed.weight"]
        return answer_loss(config, params, table, batch, low_rank=matrices)

    optimizer = adamw(rate, 0, steps, 0.0, 1.0)
    state = TrainState(adapter, optimizer.init(adapter))
    batches: Batch = jax.tree.map(lambda x: np.stack([x] * steps), BATCH)
    new, losses = jax.jit(partial(train, loss, optimizer))(state, batches)

    trained = [p for p in model.parameters() if p.requires_grad]
    theirs = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, steps)
    for step in range(steps):
        value = torch_loss(model)
        np.testing.assert_allclose(losses[step], value.item(), rtol=1e-4)
        theirs.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        theirs.step()
        schedule.step()
    assert_close(new.params, {path: leaf.detach().numpy() for path, leaf in pairs.items()}, 5e-3)
    merged = lora.merge_adapter(params, new.params, alpha / rank)
    expected = in_torch(model.merge_and_unload(), config, "data")
    assert_close(merged, expected, 2e-3)


def test_parts_of_the_vocabulary_add_up(checkpoints: dict[str, Checkpoint]) -> None:
    """Logits in pieces: the same loss and gradient as in one piece."""
    config, params = load(checkpoints["gemma2"])
    states = jax.random.normal(jax.random.key(0), (len(BATCH.targets), config.hidden_size))

    def total(params: Params, most: int) -> jax.Array:
        return _sum_of_losses(config, params, states, BATCH.targets, BATCH.counts, most)

    run = jax.jit(jax.value_and_grad(total), static_argnums=1)
    whole, parts = run(params, 10**9), run(params, 10 * config.vocab_size)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), parts, whole)


def test_both_ways_to_the_cross_entropy() -> None:
    """That of GPUs, without a scatter, is that of optax."""
    logits = 20 * jax.random.normal(jax.random.key(0), (7, VOCABULARY))
    targets = jnp.arange(7, dtype=jnp.int32) * 14

    def run(cross_entropy: Any) -> Any:
        return jax.value_and_grad(lambda x: cross_entropy(x, targets).mean())(logits)

    ours, theirs = run(_cross_entropy_without_scatter), run(_cross_entropy)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), ours, theirs)


def test_a_gpu_scatters_only_to_different_places(checkpoints: dict[str, Checkpoint]) -> None:
    """So a step's bits do not depend on the order of threads."""
    config, params = load(checkpoints["qwen2-tied"])
    traced = jax.jit(jax.grad(partial(full_loss, config))).trace(params, BATCH)
    program = traced.lower(lowering_platforms=("cuda",)).as_text()
    scatters = [line for line in program.splitlines() if "stablehlo.scatter" in line]
    assert scatters
    assert all("unique_indices = true" in line for line in scatters)


def test_layers_computed_again_change_nothing(checkpoints: dict[str, Checkpoint]) -> None:
    config, params = load(checkpoints["gemma3"])

    def loss(params: Params, recompute: bool) -> jax.Array:
        return answer_loss(config, *cast_params(config, params), BATCH, recompute=recompute)

    run = jax.jit(jax.grad(loss), static_argnums=1)
    assert_close(run(params, True), jax.tree.map(np.asarray, run(params, False)), 1e-5)


def test_a_bfloat16_model_learns_in_float32(checkpoints: dict[str, Checkpoint]) -> None:
    """Steps far below half a unit of bfloat16 add up in the master weights."""
    import dataclasses

    config, params = load(checkpoints["qwen2-untied"])
    config = dataclasses.replace(config, dtype="bfloat16")
    optimizer = adamw(1e-6, 0, 8, 0.0, 1.0)
    batches: Batch = jax.tree.map(lambda x: np.stack([x] * 3), BATCH)
    state = TrainState(params, optimizer.init(params))
    run = jax.jit(partial(train, partial(full_loss, config), optimizer))
    new, _ = run(state, batches)
    for path, leaf in new.params.items():
        assert leaf.dtype == jnp.float32
        step = np.abs(leaf - params[path]).max()
        assert 1e-6 < step < 1e-5, path
