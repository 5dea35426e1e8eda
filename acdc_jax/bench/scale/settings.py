"""Flags of `acdc bench scale`, and what its parts share."""

import dataclasses
import typing
from typing import Literal, NamedTuple

from acdc_jax.bench.weights import ModelBench
from acdc_jax.errors import ConfigError
from acdc_jax.flags import write
from acdc_jax.options import option

Part = Literal["generation", "mixed", "decode", "operators", "store", "collectives"]
MERGE_STREAMS = 3  # a merge reads two parents and writes a child; a normalised one needs no base


@dataclasses.dataclass(frozen=True)
class ScaleBench(ModelBench):
    """Scaling"""

    parts: tuple[Part, ...] = option(
        typing.get_args(Part),
        "What to measure: generation (a whole one on pop:n), mixed (the same on pop:n/2,model:2), "
        "decode (on model:n), operators (merging and mutation, on pop:n and model:n), store "
        "(members to and from the disk), collectives (operations of the compiled programs).",
    )
    devices: tuple[int, ...] = option(
        (1, 2, 4, 8), "Numbers of devices; those that this machine lacks are left out.", low=1
    )
    children: int = option(8, "Children of the generation.", low=1)
    archive: int = option(4, "Members of the archive.", low=2)
    rank: int = option(256, "Singular values that the mutation perturbs.", low=1)
    prompts: int = option(250, "Tasks that every child answers.", low=1)
    longest_prompt: int = option(
        700, "Tokens of the longest prompt; the shortest has a seventh of them.", low=7
    )
    longest_response: int = option(
        512, "Tokens of the longest response; the shortest has 1/32 of them.", low=32
    )
    slots: int = option(128, "Sequences at once in the generation.", low=1)
    batch: int = option(64, "Sequences at once while decoding alone is timed.", low=1)
    cache: int = option(1024, "Tokens of each of them.", low=16)
    members: int = option(16, "Members that are written to the disk and read.", low=1)
    folder: str | None = option(
        None, "Folder of the members that do not fit into memory; none: $TMPDIR.", path=True
    )
    device_budget_gb: float | None = option(
        None, "Memory of each device for members, in 10⁹ bytes, as for `acdc run`.", above=0
    )
    host_budget_gb: float | None = option(
        None, "Memory of the host for members, in 10⁹ bytes, as for `acdc run`.", above=0
    )

    def device_counts(self, available: int) -> list[int]:
        """Return the numbers of devices to measure, in ascending order.

        Args:
            available: Number of devices of this machine.

        Raises:
            ConfigError: There are too few devices for any of them.
        """
        counts = sorted({count for count in self.devices if count <= available})
        if not counts:
            raise ConfigError(f"--devices={write(self.devices)}: there are only {available}")
        return counts


@dataclasses.dataclass(frozen=True)
class Figure:
    """One row of the table.

    Attributes:
        what: What was measured.
        mesh: Devices that it was measured on.
        value: The figure, with its unit.
        scaling: Speed-up over one device, if that was measured too.
        limit: What is physically possible.
    """

    what: str
    mesh: str
    value: str
    scaling: str = ""
    limit: str = ""

    def cells(self) -> tuple[str, ...]:
        """Return the cells of the row."""
        return self.what, self.mesh, self.value, self.scaling, self.limit


class MeshSpec(NamedTuple):
    """A mesh of the first devices of this machine.

    Attributes:
        text: Its axes, as `acdc run --mesh` reads them.
        devices: Number of devices.
        groups: Number of groups; each breeds and decodes one member at a time.
    """

    text: str
    devices: int
    groups: int


class DeviceRates(NamedTuple):
    """Rates that figures are compared with, in bytes per second.

    Attributes:
        copy: What a device reads and writes while it copies memory.
        link: From page-locked memory of the host to a device.
    """

    copy: float
    link: float
