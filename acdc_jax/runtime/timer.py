"""Where the time of a generation goes."""

import time


class Timer:
    """Seconds by part of a generation: each lap counts for the part that it names.

    Devices work while Python goes on: what a part only starts counts for the one that waits for it.
    What is timed inside of parts, such as decoding, is added under a name of its own.
    """

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()
        self._parts: dict[str, float] = {}
        self._within: dict[str, float] = {}

    def lap(self, part: str) -> None:
        """Adds the time since the last lap to a part."""
        now = time.monotonic()
        self._parts[part] = self._parts.get(part, 0.0) + now - self._last
        self._last = now

    def seconds(self, part: str) -> float:
        """What laps have counted for a part so far."""
        return self._parts.get(part, 0.0)

    def add(self, name: str, seconds: float) -> None:
        """Adds seconds that laps count too."""
        self._within[name] = self._within.get(name, 0.0) + seconds

    def metrics(self) -> dict[str, float]:
        """`seconds` since the start, `seconds_PART` of each part, and what was added, by name."""
        parts = {f"seconds_{part}": seconds for part, seconds in self._parts.items()}
        total = {"seconds": time.monotonic() - self._began}
        return {name: round(value, 3) for name, value in (total | parts | self._within).items()}
