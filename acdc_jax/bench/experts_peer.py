"""Time fine-tuning with Hugging Face transformers and torch.compile, in a separate process.

All ways train the same conversations, and all weights: float32, computed with in the model's dtype
(autocast), with fused AdamW and clipped gradients. A step's loss is the mean over its answers'
tokens.

padded   As a plain loop does it: conversations in random order, padded to the longest, with an
         attention mask; logits of all tokens.
packed   As a careful loop does it: the rows of `pack`, which need almost none. On a GPU attention
         is FlashAttention's for sequences of different lengths, where torch has it. Logits of the
         answers' tokens only.

If a step does not fit into memory, its batch is read in parts, whose gradients add up.

    python -m acdc_jax.bench.experts_peer '{"config": …, "data": "data.npz", …}'

prints one JSON object. It must run before JAX allocates the device's memory.
"""

import contextlib
import gc
import inspect
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from acdc_jax.bench.torch_process import run_torch
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.families import to_hf
from acdc_jax.training.examples import Example, PackedExamples
from acdc_jax.training.packing import pack

Way = Literal["padded", "packed"]
WAYS: tuple[Way, ...] = ("padded", "packed")

_MULTIPLE = 64  # of which the length of padded batches is
_MOST_PARTS = 64
_IGNORED = -100  # label that the loss does not count

_Part = dict[str, Any]  # arrays of one forward pass, and "count", the answers' tokens of its step
_Loss = Callable[[_Part], Any]


class Speed(NamedTuple):
    """How fast one way trains.

    Attributes:
        way: Its name.
        tokens_per_second: Tokens of conversations, without padding.
        first_loss: The loss of the first batch before any step.
        parts: Forward passes of a step.
        attention: The implementation.
        peak_bytes: Most memory of the device, if it says so.
    """

    way: Way
    tokens_per_second: float
    first_loss: float
    parts: int
    attention: str
    peak_bytes: int | None


def measure(
    way: Way,
    config: ModelConfig,
    examples: Sequence[Example],
    *,
    batch_tokens: int,
    length: int,
    steps: int,
) -> Speed | None:
    """Return how fast torch trains a model with random weights.

    Args:
        way: How.
        config: Shape of the model.
        examples: Conversations, of at most `length` tokens.
        batch_tokens: Tokens of a packed step, padding included; a padded one has about as many
            without padding.
        length: Tokens of a packed row.
        steps: Steps that are timed, rounded up so that all conversations are.

    Returns:
        The speed; None if torch is not installed.

    Raises:
        AcdcError: The process failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.npz"
        _save(data, examples, pack(examples, length))
        task = {
            "config": to_hf(config),
            "dtype": config.dtype,
            "data": str(data),
            "batch_tokens": batch_tokens,
            "steps": steps,
            "way": way,
            "weights": None,
            "compiled": True,
        }
        values = run_torch(__name__, task, "training with torch", "--nopeer goes on without it")
    return None if values is None else Speed(*values)


def _save(path: Path, examples: Sequence[Example], packed: PackedExamples) -> None:
    np.savez(
        path,
        sizes=np.array([len(example.tokens) for example in examples]),
        flat_tokens=np.concatenate([example.tokens for example in examples]),
        flat_answer=np.concatenate([example.answer for example in examples]),
        **packed._asdict(),
    )


def _measure(task: Mapping[str, Any]) -> Speed:
    """Return the speed of a task, in as many parts as memory needs; see `measure`."""
    import torch

    torch.set_float32_matmul_precision("high")
    with np.load(task["data"]) as file:
        arrays = dict(file)
    parts = 1
    while True:
        try:
            return _time(task, task["way"], arrays, parts)
        except torch.OutOfMemoryError:
            if parts == _MOST_PARTS:
                raise
        parts *= 2
        torch._dynamo.reset()
        gc.collect()
        torch.cuda.empty_cache()


def _time(task: Mapping[str, Any], way: Way, arrays: Mapping[str, Any], parts: int) -> Speed:
    """Return the speed of a way whose steps have `parts` forward passes."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    attention = _register_varlen() if way == "packed" and device == "cuda" else "sdpa"
    model = _model(task, device, attention)
    packed = PackedExamples(*(arrays[name] for name in PackedExamples._fields))
    if way == "packed":
        steps, tokens = _packed_steps(packed, task["batch_tokens"], parts, attention != "sdpa")
        loss = _packed_loss(model)
    else:
        steps, tokens = _padded_steps(arrays, task["batch_tokens"], parts)
        loss = _padded_loss(model)
    steps = [[_on(device, part) for part in step] for step in steps]
    loss = torch.compile(loss, dynamic=False) if task["compiled"] else loss
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.0, fused=True)

    def cast() -> contextlib.AbstractContextManager[Any]:
        dtype = getattr(torch, task["dtype"])
        return torch.autocast(device, dtype, enabled=dtype != torch.float32)

    def train(step: list[_Part]) -> Any:
        total = torch.zeros((), device=device)
        for part in step:
            with cast():
                value = loss(part)
            value.backward()
            total += value.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total

    losses = [float(train(step)) for step in steps]  # compiles every shape
    rounds = -(-task["steps"] // len(steps))
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    for step in itertools.chain(*[steps] * rounds):
        total = train(step)
    float(total)  # waits for the device
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    return Speed(way, rounds * tokens / seconds, losses[0], parts, attention, peak)


def _model(task: Mapping[str, Any], device: str, attention: str) -> Any:
    """Return a model with float32 weights on a device."""
    import torch
    import transformers

    options = {"dtype": torch.float32, "attn_implementation": attention}
    if task["weights"] is not None:
        model = transformers.AutoModelForCausalLM.from_pretrained(task["weights"], **options)
        return model.to(device).train()
    fields = dict(task["config"])
    config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
    with torch.device(device):
        return transformers.AutoModelForCausalLM.from_config(config, **options).train()


def _on(device: str, part: _Part) -> _Part:
    """Return a part whose arrays are tensors on a device."""
    import torch

    return {
        name: torch.from_numpy(value).to(device) if isinstance(value, np.ndarray) else value
        for name, value in part.items()
    }


def _padded_steps(
    arrays: Mapping[str, Any], batch_tokens: int, parts: int
) -> tuple[list[list[_Part]], int]:
    """Return steps of padded batches of one shape, and the tokens of all without padding."""
    sizes, ends = arrays["sizes"], np.cumsum(arrays["sizes"])
    width = -(-int(sizes.max()) // _MULTIPLE) * _MULTIPLE
    count = max(1, round(int(sizes.sum()) / batch_tokens))
    order = np.random.default_rng(0).permutation(len(sizes))
    batches = order[: len(order) // count * count].reshape(count, -1)
    steps = []
    for batch in batches:
        count = sum(
            int(arrays["flat_answer"][ends[i] - sizes[i] + 1 : ends[i]].sum()) for i in batch
        )
        step = []
        for rows in filter(len, np.array_split(batch, parts)):
            tokens, mask = np.zeros((2, len(rows), width), np.int64)
            labels = np.full_like(tokens, _IGNORED)
            for row, i in enumerate(rows):
                text = slice(ends[i] - sizes[i], ends[i])
                tokens[row, : sizes[i]], mask[row, : sizes[i]] = arrays["flat_tokens"][text], 1
                answer = np.flatnonzero(arrays["flat_answer"][text])
                labels[row, answer] = tokens[row, answer]
            step.append({"input_ids": tokens, "attention_mask": mask, "labels": labels})
        steps.append([{**part, "count": np.array(count, np.float32)} for part in step])
    return steps, int(sizes[batches].sum())


def _packed_steps(
    packed: PackedExamples, batch_tokens: int, parts: int, joined: bool
) -> tuple[list[list[_Part]], int]:
    """Return steps of packed rows, and the tokens of all of them without padding.

    Args:
        packed: The rows.
        batch_tokens: Tokens of a step, padding included.
        parts: Forward passes of a step.
        joined: Whether the rows of a part are joined into one, with the bounds of its sequences.
    """
    rows, length = packed.tokens.shape
    per_part = max(1, batch_tokens // length // parts)
    order = np.random.default_rng(0).permutation(rows)
    groups = [order[i : i + per_part] for i in range(0, rows - per_part + 1, per_part)]
    groups = groups[: max(1, len(groups) // parts) * parts]
    mask = packed.answer & (packed.positions > 0)
    most_answers = max(int(mask[group].sum()) for group in groups)
    bounds = [_bounds(packed.segments[group]) for group in groups]
    most_bounds = max(map(len, bounds))
    all_parts = list[_Part]()
    for group, ends in zip(groups, bounds, strict=True):
        tokens = packed.tokens[group].astype(np.int64)
        positions = packed.positions[group].astype(np.int64)
        places = np.flatnonzero(mask[group])
        before = np.zeros(most_answers, np.int64)
        targets = np.full(most_answers, _IGNORED, np.int64)
        before[: len(places)], targets[: len(places)] = places - 1, tokens.reshape(-1)[places]
        model: _Part = {"input_ids": tokens, "position_ids": positions}
        if joined:
            same = np.full(most_bounds, tokens.size, np.int32)
            same[: len(ends)] = ends
            model = {name: value.reshape(1, -1) for name, value in model.items()}
            model |= {"cu_seq_lens_q": same, "max_length_q": length}
        all_parts.append({"before": before, "targets": targets, **model})
    steps = []
    for i in range(0, len(all_parts), parts):
        step = all_parts[i : i + parts]
        count = sum(int((part["targets"] != _IGNORED).sum()) for part in step)
        steps.append([{**part, "count": np.array(count, np.float32)} for part in step])
    return steps, int((packed.segments[np.concatenate(groups)] > 0).sum())


def _bounds(segments: np.ndarray) -> np.ndarray:
    """Return where the segments of joined rows begin, and where the last one ends, int32."""
    ids = segments + (segments.max() + 1) * np.arange(len(segments))[:, None]
    starts = np.flatnonzero(np.diff(ids.reshape(-1), prepend=-1))
    return np.append(starts, ids.size).astype(np.int32)


def _padded_loss(model: Any) -> _Loss:
    """Return transformers' own loss, of a part of a step."""

    def loss(part: _Part) -> Any:
        inputs = {name: part[name] for name in ("input_ids", "attention_mask", "labels")}
        return model(**inputs, num_items_in_batch=part["count"], use_cache=False).loss

    return loss


def _packed_loss(model: Any) -> _Loss:
    """Return the loss of a part of a step, with logits of the answers' tokens only."""
    from torch.nn import functional

    def loss(part: _Part) -> Any:
        inputs = {k: v for k, v in part.items() if k not in ("before", "targets", "count")}
        states = model.model(**inputs, use_cache=False).last_hidden_state.flatten(0, 1)
        logits = model.lm_head(states[part["before"]]).float()
        losses = functional.cross_entropy(
            logits, part["targets"], ignore_index=_IGNORED, reduction="sum"
        )
        return losses / part["count"]

    return loss


def _register_varlen() -> str:
    """Register attention to sequences of different lengths; return its name, or that of another."""
    import transformers

    try:
        from torch.nn.attention import varlen
    except ImportError:
        return "sdpa"
    attention: Any = varlen.varlen_attn
    names = inspect.signature(attention).parameters
    options: dict[str, Any] = (
        {"window_size": (-1, 0)} if "window_size" in names else {"is_causal": True}
    )
    if takes_groups := "enable_gqa" in names:
        options["enable_gqa"] = True

    def attend(
        module: Any, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any
    ) -> tuple[Any, None]:
        """Attend; query, key and value are [1, heads, tokens, D]."""
        del module, mask
        if not takes_groups:
            groups = query.shape[1] // key.shape[1]
            key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
        # Rotary positions are float32 under autocast.
        q, k, v = (x[0].transpose(0, 1).to(value.dtype).contiguous() for x in (query, key, value))
        bounds, longest = kwargs["cu_seq_lens_q"], kwargs["max_length_q"]
        return attention(q, k, v, bounds, bounds, longest, longest, **options)[None], None

    transformers.AttentionInterface.register("varlen", attend)
    return "varlen"


if __name__ == "__main__":
    print(json.dumps(_measure(json.loads(sys.argv[1]))))
