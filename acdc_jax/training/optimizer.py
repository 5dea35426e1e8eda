"""The optimizer of experts: AdamW with warm-up, a cosine and clipping."""

import optax

from acdc_jax.params import Params


def adamw(
    learning_rate: float, warmup: int, steps: int, weight_decay: float, clip: float
) -> optax.GradientTransformation:
    """Return AdamW (arXiv 1711.05101).

    Args:
        learning_rate: Peak, reached after `warmup` steps; a cosine then lowers it to zero.
        warmup: Steps of linear warm-up.
        steps: All steps.
        weight_decay: Share of a matrix that a step at a learning rate of 1 takes away. Biases and
            the gains of norms do not decay.
        clip: Largest global norm of a gradient.
    """
    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup, steps)
    return optax.chain(
        optax.clip_by_global_norm(clip),
        optax.adamw(schedule, weight_decay=weight_decay, mask=_matrices),
    )


def _matrices(params: Params) -> dict[str, bool]:
    return {path: leaf.ndim > 1 for path, leaf in params.items()}
