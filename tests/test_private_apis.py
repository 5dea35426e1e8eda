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
