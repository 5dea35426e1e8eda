"""Several runs in one table: means and intervals over PRNG seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import stdtrit

FIGURES = ("coverage", "coverage_majority", "best_single")


def summarise(measured: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """One row per collective and N: mean, 95 % t-interval and values over the seeds.

    Args:
        measured: the rows of each PRNG seed's runs.

    Returns:
        The rows; `repeats` of each tells which of `measured` its values are from.
    """
    keys = dict.fromkeys((row["collective"], row["n"]) for rows in measured for row in rows)
    summary = []
    for collective, n in keys:
        # One of each seed, lest an interval be as narrow as if there were more.
        same = {
            repeat: row
            for repeat, rows in enumerate(measured)
            for row in rows
            if (row["collective"], row["n"]) == (collective, n)
        }
        entry: dict[str, Any] = {"collective": collective, "n": n, "repeats": list(same)}
        for figure in FIGURES:
            values = np.asarray([row[figure] for row in same.values()])
            entry[figure] = float(values.mean())
            entry[f"{figure}_interval"] = interval(values)
            entry[f"{figure}_values"] = values.tolist()
        summary.append(entry)
    return summary


def differences(summary: Sequence[Mapping[str, Any]]) -> str:
    """Coverage of the evolved task force minus every other row's, paired by PRNG seed.

    Left out are rows of other seeds than the task force's.
    """
    evolved = {row["n"]: row for row in summary if row["collective"] == "evolved"}
    lines = ["Coverage of the evolved task force minus, paired by PRNG seed:"]
    for row in summary:
        ours = evolved.get(row["n"], evolved.get(3))
        if row["collective"] == "evolved" or ours is None or ours["repeats"] != row["repeats"]:
            continue
        gap = np.asarray(ours["coverage_values"]) - np.asarray(row["coverage_values"])
        low, high = interval(gap)
        lines.append(
            f"  {row['collective']:<20} N {ours['n']} against {row['n']}: {gap.mean():+.3f} "
            f"(95 % interval {low:+.3f} to {high:+.3f}; median {np.median(gap):+.3f})"
        )
    return "\n".join(lines)


def interval(values: np.ndarray) -> list[float]:
    """95 % interval of the mean by Student's t; the value itself where there is only one."""
    if len(values) < 2 or np.ptp(values) == 0:
        return [float(values.mean())] * 2
    error = values.std(ddof=1) / np.sqrt(len(values))
    half = stdtrit(len(values) - 1, 0.975) * error
    return [float(values.mean() - half), float(values.mean() + half)]
