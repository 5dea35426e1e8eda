"""Where the time of a generation goes."""

import time


class Clock:
    """Seconds by part of a generation: each lap counts for the part that it names.

    Devices work while Python goes on: what a part only starts counts for the one that waits for it.
    """

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()
        self._parts: dict[str, float] = {}

    def lap(self, part: str) -> None:
        """Adds the time since the last lap to a part."""
        now = time.monotonic()
        self._parts[part] = self._parts.get(part, 0.0) + now - self._last
        self._last = now

    def metrics(self) -> dict[str, float]:
        """`seconds` since the start, and `seconds_PART` of each part."""
        parts = {f"seconds_{part}": seconds for part, seconds in self._parts.items()}
        total = {"seconds": time.monotonic() - self._began}
        return {name: round(value, 3) for name, value in (total | parts).items()}
