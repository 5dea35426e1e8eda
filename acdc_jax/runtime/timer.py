"""Where the time of a generation goes."""

import time


class Timer:
    """Seconds by part of a generation. Each lap counts for the part that it names.

    Devices work asynchronously: what one part starts counts for the part that waits for it. What is
    timed within a part, such as decoding, is added under its own name.
    """

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()
        self._parts: dict[str, float] = {}
        self._within: dict[str, float] = {}

    def lap(self, part: str) -> None:
        """Add the time since the last lap to a part."""
        now = time.monotonic()
        self._parts[part] = self._parts.get(part, 0.0) + now - self._last
        self._last = now

    def seconds(self, part: str) -> float:
        """Return the seconds that laps have counted for a part so far."""
        return self._parts.get(part, 0.0)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds that were timed within a part, under a name of their own."""
        self._within[name] = self._within.get(name, 0.0) + seconds

    def metrics(self) -> dict[str, float]:
        """Return `seconds` since the start, `seconds_PART` of each part, and what was added."""
        parts = {f"seconds_{part}": seconds for part, seconds in self._parts.items()}
        total = {"seconds": time.monotonic() - self._began}
        return {name: round(value, 3) for name, value in (total | parts | self._within).items()}
