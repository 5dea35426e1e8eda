"""Merge methods and their settings."""

from dataclasses import dataclass
from typing import Literal, get_args

from acdc_jax.options import OptionError, check, option

# mergekit's names.
Method = Literal[
    "linear",
    "slerp",
    "ties",
    "dare_linear",
    "dare_ties",
    "della_linear",
    "della",
    "model_stock",
]
METHODS: tuple[Method, ...] = get_args(Method)
_AVERAGES = ("linear", "slerp", "model_stock")  # keep every entry of every parent
_ELECTING = ("ties", "dare_ties", "della")


@dataclass(frozen=True)
class MergeOptions:
    """How parents are merged. Hashable: a static argument of jitted functions.

    Attributes:
        method: Name of the merge method.
        normalise: Whether task vectors are divided by the sum of the coefficients: of all parents,
            or, if signs are elected, of the parents that agree on the entry.
        density: Share of each task vector that is kept: its largest entries (ties), random entries
            (dare), or random entries that favour large ones (della).
        epsilon: Spread of della's keep probabilities: `density - epsilon` for the smallest entry of
            a row, `density + epsilon` for the largest.
    """

    method: Method = option(
        "linear",
        "How parents are merged. linear (the paper's) adds weighted task vectors; slerp "
        "interpolates along great circles; model_stock moves towards the base where parents "
        "disagree. The others drop entries of task vectors: ties keeps the largest, dare_linear "
        "random ones, della_linear random ones that favour large magnitudes; ties, dare_ties and "
        "della also elect one sign per entry.",
    )
    normalise: bool = option(
        True,
        "Divide task vectors by the sum of their coefficients, as the paper does. With an elected "
        "sign, the sum is over the parents that agree.",
    )
    density: float = option(
        1.0, "Share of each task vector that ties, dare and della keep.", above=0, high=1
    )
    epsilon: float = option(
        0.0,
        "Spread of della's keep probabilities: density - epsilon for the smallest entry of a row, "
        "density + epsilon for the largest.",
        low=0,
    )

    def __post_init__(self) -> None:
        check(self)
        if self.averages and self.density < 1:
            raise OptionError(self, "density", "must be 1: {method} keeps every entry")
        if self.drops and self.density == 1:
            raise OptionError(self, "density", "must be below 1 for {method}, such as 0.5")
        if not self.ranks and self.epsilon:
            raise OptionError(self, "epsilon", "must be 0 for {method}: only della uses it")
        if self.ranks and not 0 < self.epsilon < min(self.density, 1 - self.density):
            raise OptionError(
                self,
                "epsilon",
                "must be positive, and {density} ± epsilon strictly between 0 and 1; try 0.1",
            )
        if self.method in ("slerp", "model_stock") and not self.normalise:
            raise OptionError(self, "normalise", "must be true for {method}")

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
        """Whether parents elect a sign for every entry, and the others are left out."""
        return self.method in _ELECTING
