"""The private APIs that `private_apis.py` uses are in the installed versions, or are reported."""

import ast
import logging
import sys
from pathlib import Path

import pytest

import acdc_jax
from acdc_jax import private_apis
from acdc_jax.errors import AcdcError


def test_the_installed_versions_have_them() -> None:
    from jax._src import distributed
    from orbax.checkpoint._src.serialization.types import TransferPriority

    assert private_apis.coordination().client is distributed.global_state.client
    callback = private_apis.sequential_transfers()
    assert callback.key_priority(None) is TransferPriority.ASYNCHRONOUS_DEPRIORITIZED


def test_cudnn_takes_packed_rows_and_has_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as that can be seen without a GPU: the program for one calls both kernels."""
    import jax
    import jax.numpy as jnp
    from jax._src.cudnn import fused_attention_stablehlo as module

    monkeypatch.setattr(module, "check_cudnn_version", lambda: 91200)
    monkeypatch.setattr(module, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(module, "is_cuda_compute_capability_equal", lambda capability: False)
    q, k, lengths, starts = (
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in (
            ((2, 128, 6, 64), jnp.bfloat16),
            ((2, 128, 2, 64), jnp.bfloat16),
            ((2, 4), jnp.int32),
            ((2, 5), jnp.int32),
        )
    )

    def total(*arrays: jax.Array) -> jax.Array:
        return private_apis.packed_attention(*arrays, scale=0.1, window=9).sum()

    traced = jax.jit(jax.grad(total, (0, 1, 2))).trace(q, k, k, lengths, starts)
    program = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "__cudnn$fmhaSoftmax(" in program
    assert "__cudnn$fmhaSoftmaxBackward(" in program


def test_jax_without_cudnns_attention_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jax._src.cudnn.fused_attention_stablehlo", None)
    with pytest.raises(AcdcError, match=r"packed attention does not work with jax \d"):
        private_apis.packed_attention(*[None] * 5, scale=1.0, window=0)  # type: ignore[arg-type]


def test_jax_without_its_client_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jax._src.distributed", None)
    monkeypatch.delattr("jax._src.distributed")
    with pytest.raises(AcdcError, match=r"several processes do not work with jax \d"):
        private_apis.coordination()


def test_orbax_without_its_callback_is_done_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "orbax.checkpoint._src.serialization.types", None)
    with caplog.at_level(logging.WARNING):
        assert private_apis.sequential_transfers() is None
    assert "as a whole" in caplog.text


def test_transformers_without_its_templates_is_done_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr("transformers.utils.chat_template_utils._compile_jinja_template")
    with caplog.at_level(logging.WARNING):
        private_apis.set_template_clock("{{ strftime_now('%d') }}", str)
    assert "today's date" in caplog.text


def test_nothing_else_imports_private_modules() -> None:
    root = Path(acdc_jax.__file__).parent
    for path in set(root.rglob("*.py")) - {root / "private_apis.py"}:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            private = [name for name in names if "._src" in name and "acdc_jax" not in name]
            assert not private, f"{path} imports {private}"
