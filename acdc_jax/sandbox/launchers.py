"""Launchers: programs that start a zygote inside a container or another sandbox.

Starting one costs time once per zygote, not per call. Whatever the launcher isolates, the zygote
isolates itself inside. In a container that refuses namespaces, the tier is "landlock + seccomp".

The tests run only bubblewrap; the container commands follow their manuals.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from acdc_jax.sandbox.outcomes import SandboxError

_SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/alternatives")


@dataclass(frozen=True)
class Launch:
    """A command to start in a launcher, and the paths that it needs there, unchanged.

    Attributes:
        command: The zygote's command.
        environment: The zygote's whole environment.
        read_only: Files and folders that it reads.
        socket: Folder of the socket that connects it to the parent.
    """

    command: Sequence[str]
    environment: Mapping[str, str]
    read_only: Sequence[str]
    socket: str


@dataclass(frozen=True)
class Launcher:
    """A launcher; `image` is empty if it needs none."""

    name: str
    image: str = ""

    def check(self) -> None:
        """Check that the launcher is installed.

        Raises:
            SandboxError: It is not installed.
        """
        if shutil.which(_PROGRAMS[self.name]) is None:
            raise SandboxError(
                f"launcher {self}: there is no {_PROGRAMS[self.name]} on the PATH; install it or "
                "use no launcher"
            )

    def __call__(self, launch: Launch) -> list[str]:
        """Return the command line that starts `launch` in this launcher."""
        variables = [f"{name}={value}" for name, value in launch.environment.items()]
        inner = ["/usr/bin/env", "-i", *variables, *launch.command]
        return [_PROGRAMS[self.name], *_OPTIONS[self.name](self.image, launch), *inner]

    def __str__(self) -> str:
        return f"{self.name}:{self.image}" if self.image else self.name


def parse(text: str) -> Launcher:
    """Return the launcher called `bubblewrap`, or `NAME:IMAGE` with an image.

    Raises:
        ValueError: There is no such launcher, or an image is missing or not allowed.
    """
    name, _, image = text.partition(":")
    if name not in _PROGRAMS:
        raise ValueError(
            f"launcher {text}: choose bubblewrap, or one of "
            f"{', '.join(n for n in _PROGRAMS if n != 'bubblewrap')} as NAME:IMAGE"
        )
    if (name == "bubblewrap") == bool(image):
        raise ValueError(
            f"launcher {text}: bubblewrap takes no image"
            if image
            else f"launcher {text}: name an image with this machine's C library, as in "
            f"{name}:debian:bookworm-slim"
        )
    return Launcher(name, image)


def _bubblewrap(image: str, launch: Launch) -> list[str]:
    system: list[str] = []
    for path in _SYSTEM:
        if os.path.islink(path):  # noqa: PTH114 (plain strings on purpose)
            system += ["--symlink", os.readlink(path), path]  # noqa: PTH115
        else:
            system += ["--ro-bind-try", path, path]
    return [
        *("--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"),
        # Not root, which could not map itself into the zygote's own user namespace.
        *("--uid", "65534", "--gid", "65534"),
        *system,
        *("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"),
        *(word for path in launch.read_only for word in ("--ro-bind", path, path)),
        *("--bind", launch.socket, launch.socket),
        "--",
    ]


def _apptainer(image: str, launch: Launch) -> list[str]:
    return [
        *("exec", "--containall", "--no-home", "--cleanenv", "--no-privs"),
        *("--net", "--network", "none"),
        *(word for path in launch.read_only for word in ("--bind", f"{path}:{path}:ro")),
        *("--bind", f"{launch.socket}:{launch.socket}"),
        image,
    ]


def _podman(image: str, launch: Launch) -> list[str]:
    return ["run", "--userns=keep-id", *_container(launch), image]


def _docker(image: str, launch: Launch) -> list[str]:
    user = f"{os.getuid()}:{os.getgid()}"
    return ["run", "--user", user, *_container(launch), image]


def _runsc(image: str, launch: Launch) -> list[str]:
    """Use gVisor as Docker's runtime, which must be registered with --host-uds=open."""
    user = f"{os.getuid()}:{os.getgid()}"
    return ["run", "--runtime=runsc", "--user", user, *_container(launch), image]


def _container(launch: Launch) -> list[str]:
    return [
        *("--rm", "--network=none", "--read-only", "--cap-drop=ALL"),
        *("--security-opt=no-new-privileges", "--pids-limit=512", "--tmpfs=/tmp"),
        *(f"--volume={path}:{path}:ro" for path in launch.read_only),
        f"--volume={launch.socket}:{launch.socket}",
    ]


_PROGRAMS = {
    "bubblewrap": "bwrap",
    "apptainer": "apptainer",
    "podman": "podman",
    "docker": "docker",
    "runsc": "docker",
}
_OPTIONS: dict[str, Callable[[str, Launch], list[str]]] = {
    "bubblewrap": _bubblewrap,
    "apptainer": _apptainer,
    "podman": _podman,
    "docker": _docker,
    "runsc": _runsc,
}
