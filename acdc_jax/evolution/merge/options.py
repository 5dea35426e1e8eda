"""Which merge, and what cannot go together."""

import math
from dataclasses import dataclass

# Names are mergekit's, so that they can be looked up.
METHODS = (
    "linear",
    "slerp",
    "ties",
    "dare_linear",
    "dare_ties",
    "della_linear",
    "della",
    "model_stock",
)
_AVERAGES = ("linear", "slerp", "model_stock")  # keep every entry of every parent
_ELECTING = ("ties", "dare_ties", "della")


@dataclass(frozen=True)
class MergeOptions:
    """How parents are merged. Hashable: a static argument of jitted functions.

    Attributes:
        method: One of `METHODS`.
        normalise: Divides by the sum of the coefficients: of all parents, or, where signs are
            elected, of the parents that agree on the entry.
        density: Share of every task vector that is kept: its largest entries ("ties"), or random
            ones ("dare_…", and "della…", which prefers large ones).
        epsilon: "della…": entries are kept with a probability from `density - epsilon` (the
            smallest of a row) to `density + epsilon` (the largest).
    """

    method: str = "linear"
    normalise: bool = True
    density: float = 1.0
    epsilon: float = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError for a value, or a pair of values, that cannot work."""
        method, density, epsilon = self.method, self.density, self.epsilon
        if method not in METHODS:
            raise ValueError(f"unknown merge method {method!r}: choose one of {', '.join(METHODS)}")
        if not 0 < density <= 1:
            raise ValueError(f"density {density} must be above 0 and at most 1")
        if not (math.isfinite(epsilon) and epsilon >= 0):
            raise ValueError(f"epsilon {epsilon} must be finite and at least 0")
        if method in _AVERAGES and density < 1:
            raise ValueError(f"density {density}: {method} merges keep every entry; use density 1")
        if self.drops and density == 1:
            raise ValueError(f"{method} merges drop entries: set density below 1, such as 0.5")
        if not self.ranks and epsilon:
            raise ValueError(
                f"epsilon {epsilon} only applies to della merges, not to {method}; use epsilon 0"
            )
        if self.ranks and not (0 < epsilon < min(density, 1 - density)):
            raise ValueError(
                f"{method} keeps entries with probability density ± epsilon, strictly between 0 "
                f"and 1: not with density {density} and epsilon {epsilon}; try epsilon 0.1"
            )
        if method in ("slerp", "model_stock") and not self.normalise:
            raise ValueError(f"{method} takes coefficients as shares: normalise must be true")

    @property
    def averages(self) -> bool:
        """Whether a child is a weighted sum of whole parents, with numbers for weights."""
        return self.method in _AVERAGES

    @property
    def drops(self) -> bool:
        """Whether entries of task vectors are dropped at random."""
        return self.method.startswith(("dare", "della"))

    @property
    def ranks(self) -> bool:
        """Whether large entries are dropped less often than small ones."""
        return self.method.startswith("della")

    @property
    def elects(self) -> bool:
        """Whether parents elect a sign for every entry, and those who disagree are left out."""
        return self.method in _ELECTING
