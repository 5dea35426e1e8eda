"""Decide from the clocks of a running child whether its current item has had its time.

The limit is CPU seconds, which do not pass while the machine is busy with something else. A task
that waits uses no CPU, so an item also needs to keep a minimum pace: `min_share` of a core, after
the first `wall_s`. Whatever the load, a process that can run keeps this pace.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from acdc_jax.sandbox.outcomes import Limits

Cut = Literal["cpu", "idle"]  # why an item is ended: it used up its CPU seconds, or stood still


class Reading(NamedTuple):
    """A reading of both clocks, made by the zygote.

    Attributes:
        cpu_s: CPU seconds that the child has used so far.
        at: Seconds of `time.monotonic`.
    """

    cpu_s: float
    at: float


@dataclass
class ItemClock:
    """The time of the current item.

    Attributes:
        start: When the item began, in seconds of `time.monotonic`.
        first: The first reading during the item, or None.
        last: The last one.
    """

    start: float
    first: Reading | None = None
    last: Reading | None = None

    def read(self, reading: Reading) -> None:
        """Note a reading that was made during the item."""
        self.first, self.last = self.first or reading, reading

    def cut(self, limits: Limits) -> Cut | None:
        """Return why the item must be ended now, or None if it may continue."""
        if self.first is None or self.last is None:
            return None
        used = self.last.cpu_s - self.first.cpu_s
        if used > limits.cpu_s:
            return "cpu"
        allowed = limits.wall_s + used / limits.min_share
        return "idle" if self.last.at - self.start > allowed else None
