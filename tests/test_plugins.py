"""Names that flags may give come from installed packages, and a wrong one is a line that helps."""

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from acdc_jax import plugins
from acdc_jax.errors import ConfigError
from acdc_jax.runtime.seed_models import SeedSet
from acdc_jax.tasks.options import TaskPoolOptions
from acdc_jax.tasks.task_sets import load_held_out, load_seed_families


def _register(monkeypatch: pytest.MonkeyPatch, group: str, **values: str) -> None:
    entries = [EntryPoint(name, value, group) for name, value in values.items()]
    monkeypatch.setattr(
        plugins, "entry_points", lambda group: [e for e in entries if e.group == group]
    )


def test_what_this_package_registers() -> None:
    assert plugins.registered_names(plugins.SEED_MODELS) == ["tiny"]
    assert plugins.registered_names(plugins.SCIENTISTS) == ["gym", "procedural"]
    assert plugins.registered_names(plugins.SEED_FAMILIES) == ["general", "gym", "tiny"]
    assert plugins.registered_names(plugins.HELD_OUT) == [
        "general",
        "gym:families",
        "gym:instances",
        "tiny",
    ]
    assert isinstance(plugins.load(plugins.SEED_MODELS, "tiny"), SeedSet)
    for group in (plugins.SCIENTISTS, plugins.SEED_FAMILIES, plugins.HELD_OUT):
        for name in plugins.registered_names(group):
            assert callable(plugins.load(group, name))


def test_a_package_registers_a_task_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_exam.py").write_text(
        "from acdc_jax.tasks.task_sets import general\n"
        "def exam(prng_seed, options):\n    return general()[:options.initial_tasks + prng_seed]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    _register(monkeypatch, plugins.HELD_OUT, exam="my_exam:exam")
    assert "my_exam" not in sys.modules
    (drafts,) = load_held_out(["exam"], 1, TaskPoolOptions(initial_tasks=2)).values()
    assert len(drafts) == 3


def test_an_empty_task_set(monkeypatch: pytest.MonkeyPatch) -> None:
    _register(monkeypatch, plugins.SEED_FAMILIES, nothing="not:loaded")
    monkeypatch.setattr(plugins, "load", lambda group, name: lambda prng_seed, options: [])
    with pytest.raises(ConfigError, match=r"nothing: this registered set of .* is empty"):
        load_seed_families("nothing", 0)


@pytest.mark.parametrize(
    ("registered", "message"),
    [
        ({}, "no 'mine'; no name is registered: install the package"),
        ({"other": "a:b"}, "no 'mine'; registered: other"),
        ({"mine": "no_such_module:f"}, "'mine' is registered as no_such_module:f, which cannot be"),
        ({"mine": "json:no_such_name"}, "which cannot be imported"),
    ],
)
def test_what_cannot_be_loaded(
    registered: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _register(monkeypatch, plugins.SCIENTISTS, **registered)
    with pytest.raises(ConfigError) as error:
        plugins.load(plugins.SCIENTISTS, "mine")
    assert message in str(error.value)


def test_nothing_imports_the_quickstart() -> None:
    """Unless a flag names it: not even all commands together."""
    code = (
        "import importlib, pkgutil, sys, acdc_jax.commands as commands\n"
        "for module in pkgutil.iter_modules(commands.__path__):\n"
        "    importlib.import_module(f'acdc_jax.commands.{module.name}')\n"
        "assert not any(name.startswith('acdc_jax.quickstart') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
