"""A sandbox per test module, and a short way to score with it."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from acdc_jax import sandbox as package
from acdc_jax.sandbox import Outcome, Sandbox

from .helpers import family, open_sandbox


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """Return a sandbox of the strongest tier with one worker, whose calls share a zygote."""
    with open_sandbox() as opened:
        yield opened


@pytest.fixture
def score(sandbox: Sandbox) -> Callable[..., Outcome]:
    """Return a function that scores with the body of a `score` method (t: instance, s: answer)."""

    def run(body: str, instance: object = None, submission: str = "") -> Outcome:
        (outcome,) = sandbox.score(family(body), [(instance, submission)]).result()  # type: ignore[list-item]
        return outcome

    return run


@pytest.fixture(scope="session")
def user_python(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Return an interpreter and a copy of the package that every user can read."""
    python = "/usr/bin/python3"
    recent = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
    if os.getuid() != 0:
        pytest.skip("these tests already run as an ordinary user")
    if not Path(python).exists() or subprocess.run(recent, check=False).returncode:
        pytest.skip("no system interpreter of Python 3.11 or later")
    folder = tmp_path_factory.mktemp("user")
    root = Path(package.__file__).parents[1]
    for file in [*root.glob("*.py"), *root.glob("sandbox/**/*.py")]:
        copy = folder / "acdc_jax" / file.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    for above in [folder, *folder.parents][:4]:
        above.chmod(0o755)
    return python, str(folder)
