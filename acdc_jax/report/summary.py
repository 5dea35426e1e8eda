"""Summarise several runs: means and intervals over PRNG seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import stdtrit

FIGURES = {
    "coverage": "Coverage",
    "cover_at_half": "Cover@0.5",
    "coverage_majority": "most instances",
    "best_single": "best single",
}
"""Figure of a row → its heading."""


def summarise(measured: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return one row per collective and N: mean, 95 % t-interval and values over the PRNG seeds.

    Args:
        measured: The rows of each PRNG seed's runs.

    Returns:
        The rows. `repeats` of a row are the indices in `measured` of its values.
    """
    keys = dict.fromkeys((row["collective"], row["n"]) for rows in measured for row in rows)
    summary = []
    for collective, n in keys:
        # One value per PRNG seed: repeated ones would make the interval too narrow.
        same = {
            repeat: row
            for repeat, rows in enumerate(measured)
            for row in rows
            if (row["collective"], row["n"]) == (collective, n)
        }
        entry: dict[str, Any] = {"collective": collective, "n": n, "repeats": list(same)}
        for figure in FIGURES:
            if any(figure not in row for row in same.values()):  # of an older version
                continue
            values = np.asarray([row[figure] for row in same.values()])
            entry[figure] = float(values.mean())
            entry[f"{figure}_interval"] = interval(values)
            entry[f"{figure}_values"] = values.tolist()
        summary.append(entry)
    return summary


def differences(summary: Sequence[Mapping[str, Any]]) -> str:
    """Return in words the Coverage of the evolved task force minus that of each other row.

    Differences are paired by PRNG seed. Rows of other PRNG seeds than the task force's are left
    out.
    """
    evolved = {row["n"]: row for row in summary if row["collective"] == "evolved"}
    lines = ["Coverage of the evolved task force minus that of (paired by PRNG seed):"]
    for row in summary:
        force = evolved.get(row["n"], evolved.get(3))
        if row["collective"] == "evolved" or force is None or force["repeats"] != row["repeats"]:
            continue
        gap = np.asarray(force["coverage_values"]) - np.asarray(row["coverage_values"])
        low, high = interval(gap)
        lines.append(
            f"  {row['collective']:<20} N {force['n']} against {row['n']}: {gap.mean():+.3f} "
            f"(95 % interval {low:+.3f} to {high:+.3f}; median {np.median(gap):+.3f})"
        )
    return "\n".join(lines)


def interval(values: np.ndarray) -> list[float]:
    """Return the 95 % t-interval of the mean; of a single value, the value twice."""
    if len(values) < 2 or np.ptp(values) == 0:
        return [float(values.mean())] * 2
    error = values.std(ddof=1) / np.sqrt(len(values))
    half = stdtrit(len(values) - 1, 0.975) * error
    return [float(values.mean() - half), float(values.mean() + half)]
