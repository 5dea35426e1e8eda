"""Rotary positions (RoFormer, arXiv 2104.09864), and their variants for longer sequences."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from acdc_jax.models.config import ModelConfig

Frequencies = npt.NDArray[np.float32]


def rope_frequencies(config: ModelConfig, *, local: bool = False) -> tuple[Frequencies, float]:
    """Return the rotary frequencies, scaled as `rope_type` says, and the factor of the rotation.

    "linear" is position interpolation (arXiv 2306.15595). "llama3" (arXiv 2407.21783) and "yarn"
    (arXiv 2309.00071) scale low frequencies only, with a linear transition: in the frequency, or in
    the index of the pair; "yarn" also multiplies cosine and sine. "dynamic" scales nothing up to
    `max_positions`, and the engines accept no longer sequence. The frequencies are computed on the
    host, so that all kinds of devices rotate by the same angles.

    Args:
        config: Shape of the decoder.
        local: Whether to return the frequencies of the layers with a window.

    Returns:
        Frequencies [head_dim / 2] float32, in radians per token, and the factor.
    """
    local = local and config.local_rope_theta > 0
    theta = config.local_rope_theta if local else config.rope_theta
    exponent = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    frequency = np.float32(1) / np.power(np.float32(theta), exponent)
    if local or config.rope_type in ("default", "dynamic"):
        return frequency, 1.0
    scaled = frequency / np.float32(config.rope_factor)
    if config.rope_type == "linear":
        return scaled, 1.0
    is_yarn = config.rope_type == "yarn"
    share = _yarn_share(config) if is_yarn else _llama3_share(config, frequency)
    mixture = np.asarray((1 - share) * scaled + share * frequency, np.float32)
    return mixture, config.rope_attention_factor


def _llama3_share(config: ModelConfig, frequency: Frequencies) -> Frequencies:
    """Return which share of each frequency is not scaled, [head_dim / 2]."""
    low, high = config.rope_low_freq_factor, config.rope_high_freq_factor
    turns = config.rope_original_positions * frequency / (2 * np.pi)  # within the original window
    share: Frequencies = np.clip((turns - low) / (high - low), 0, 1)
    return share


def _yarn_share(config: ModelConfig) -> Frequencies:
    """Return which share of each frequency is not scaled, [head_dim / 2]."""

    def pair(turns: float) -> float:
        """Return the index of the pair that turns so often within the original window."""
        longest_wave = config.rope_original_positions / (2 * math.pi * turns)
        return config.head_dim * math.log(longest_wave) / (2 * math.log(config.rope_theta))

    first, last = pair(config.rope_beta_fast), pair(config.rope_beta_slow)
    if config.rope_truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, config.head_dim - 1)
    index = np.arange(config.head_dim // 2, dtype=np.float32)
    share: Frequencies = 1 - np.clip((index - first) / (last - first or 0.001), 0, 1)
    return share


def rope_angles(
    positions: jax.Array, frequency: Frequencies, factor: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Return cosine and sine of the rotary angles, times a factor.

    Args:
        positions: [batch, tokens] int32.
        frequency: [head_dim / 2] float32, from `rope_frequencies`.
        factor: As `frequency`.

    Returns:
        Two arrays [batch, tokens, 1, head_dim / 2] float32.
    """
    angles = positions.astype(jnp.float32)[:, :, None, None] * frequency[None, None, None, :]
    return factor * jnp.cos(angles), factor * jnp.sin(angles)


def rope(x: jax.Array, cosine: jax.Array, sine: jax.Array) -> jax.Array:
    """Rotate [batch, tokens, heads, head_dim]; the pairs are (i, i + head_dim / 2)."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = (first * cosine - second * sine, second * cosine + first * sine)
    return jnp.concatenate(rotated, axis=-1).astype(x.dtype)
