"""Where compiled programs are kept, and where not."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from acdc_jax.runtime.compilation_cache import keep_compiled

_NAMES = ("jax_compilation_cache_dir", "jax_compilation_cache_max_size")


@pytest.fixture(autouse=True)
def unchanged() -> Iterator[None]:
    before = {name: getattr(jax.config, name) for name in _NAMES}
    jax.config.update(_NAMES[0], None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_on_a_cpu_nothing_is_kept(tmp_path: Path) -> None:
    keep_compiled(tmp_path)
    assert jax.config.jax_compilation_cache_dir is None


@pytest.mark.parametrize(
    ("processes", "told", "kept"),
    [(1, None, "cache/compiled"), (1, "elsewhere", "elsewhere"), (2, None, None)],
)
def test_on_an_accelerator(
    monkeypatch: pytest.MonkeyPatch, processes: int, told: str | None, kept: str | None
) -> None:
    """Unless JAX has been told where, or several processes compile together."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    jax.config.update("jax_compilation_cache_dir", told)
    keep_compiled(Path("cache"))
    assert jax.config.jax_compilation_cache_dir == kept


_PROGRAM = """
import sys, jax, jax.numpy as jnp
from pathlib import Path
from jax._src import monitoring
from acdc_jax.runtime.compilation_cache import keep_compiled
jax.default_backend = lambda: "gpu"
keep_compiled(Path(sys.argv[1]))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
found = []
monitoring.register_event_listener(lambda name, **_: found.append(name))
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((8, 8))).block_until_ready()
print("/jax/compilation_cache/cache_hits" in found)
"""


def test_the_next_process_finds_it(tmp_path: Path) -> None:
    """In a folder that does not exist yet; with a limit of its size."""
    said = [
        subprocess.run(
            [sys.executable, "-c", _PROGRAM, str(tmp_path / "cache")],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for _ in range(2)
    ]
    assert said == ["False\n", "True\n"]
