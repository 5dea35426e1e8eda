"""Which kernels run where."""

from types import SimpleNamespace

import jax
import pytest

from acdc_jax.models.kernels.options import XLA_ONLY, choose_kernels


@pytest.mark.parametrize(
    ("backend", "capability", "dtype", "any_kernel", "swiglu"),
    [
        ("gpu", "9.0", "bfloat16", True, True),
        ("gpu", "9.0", "float16", True, True),
        ("gpu", "8.0", "bfloat16", True, False),
        ("gpu", "10.0", "bfloat16", True, False),
        ("gpu", "7.5", "float16", False, False),
        ("gpu", "9.0", "float32", False, False),
        ("gpu", "gfx942", "bfloat16", False, False),
        ("tpu", None, "bfloat16", False, False),
    ],
)
def test_choose_kernels(
    backend: str,
    capability: str | None,
    dtype: str,
    any_kernel: bool,
    swiglu: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """NVIDIA GPUs since Ampere, in 16 bits; the kernel for prompts on Hopper alone."""
    fields = {} if capability is None else {"compute_capability": capability}
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(**fields)])
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    kernels = choose_kernels(dtype)
    others = (
        kernels.cudnn_attention,
        kernels.decode_attention,
        kernels.residual_norm,
        kernels.cache_rows,
    )
    assert others == (any_kernel,) * 4
    assert kernels.swiglu == swiglu


def test_a_cpu_runs_none() -> None:
    """XLA computes everything."""
    assert choose_kernels("bfloat16") == XLA_ONLY
