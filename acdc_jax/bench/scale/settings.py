"""What `acdc bench scale` measures, and one figure of it."""

import dataclasses

from acdc_jax.bench.weights import ModelBench
from acdc_jax.errors import ConfigError
from acdc_jax.options import check, option

PARTS = ("generation", "mixed", "decode", "operators", "store", "collectives")
MERGE_STREAMS = 3  # two parents are read and a child written; a normalised mean needs no base


@dataclasses.dataclass(frozen=True)
class ScaleBench(ModelBench):
    """Scaling"""

    parts: str = option(
        ",".join(PARTS),
        "Comma-separated: generation (a whole one, devices in pop), mixed (the same on "
        "pop:n/2,model:2), decode (model:n), operators (merging and mutation, pop:n and model:n), "
        "store (members to and from the disk), collectives (what compiled programs exchange).",
    )
    devices: str = option(
        "1,2,4,8", "Numbers of devices, comma-separated; those that there are count."
    )
    children: int = option(8, "Children of the generation.", low=1)
    archive: int = option(4, "Members of the archive.", low=2)
    rank: int = option(256, "Singular values that the mutation perturbs.", low=1)
    prompts: int = option(250, "Tasks that every child answers.", low=1)
    longest_prompt: int = option(700, "Longest prompt; the shortest has a seventh.", low=7)
    longest_response: int = option(512, "Longest response; the shortest has 1/32.", low=32)
    slots: int = option(128, "Sequences at once in the generation.", low=1)
    batch: int = option(64, "Sequences at once while decoding alone is timed.", low=1)
    cache: int = option(1024, "Tokens of each of them.", low=16)
    members: int = option(16, "Members that are written and read.", low=1)
    folder: str = option("", "Where members go that do not fit into memory; default: $TMPDIR.")
    device_budget_gb: float = option(0.0, "As of `acdc run`.", low=0)
    host_budget_gb: float = option(0.0, "As of `acdc run`.", low=0)

    def __post_init__(self) -> None:
        check(self)
        for part in self.parts.split(","):
            if part not in PARTS:
                raise ConfigError(f"--parts={self.parts}: {part!r} is none of {', '.join(PARTS)}")
        if not all(count.isdecimal() and int(count) for count in self.devices.split(",")):
            raise ConfigError(f"--devices={self.devices}: give numbers, such as 1,2,4")

    def counts(self, available: int) -> list[int]:
        """The numbers of devices that can be used here, in order.

        Raises:
            ConfigError: none can.
        """
        counts = sorted({int(count) for count in self.devices.split(",")})
        if counts[0] > available:
            raise ConfigError(f"--devices={self.devices}: there are only {available}")
        return [count for count in counts if count <= available]


@dataclasses.dataclass(frozen=True)
class Figure:
    """One row of the table.

    Attributes:
        what: is measured.
        mesh: on which devices.
        value: with its unit.
        scaling: over one device, where that was measured too.
        limit: beside what is physically possible.
    """

    what: str
    mesh: str
    value: str
    scaling: str = ""
    limit: str = ""

    def row(self) -> tuple[str, ...]:
        """As texts of a table."""
        return self.what, self.mesh, self.value, self.scaling, self.limit
