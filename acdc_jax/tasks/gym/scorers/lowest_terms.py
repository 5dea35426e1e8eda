"""Simplify a fraction: `fraction_simplification`."""

import re


def lowest_terms(submission: str, fraction: list[int]) -> bool:
    r"""Return whether an answer, such as 3/4 or \frac{3}{4}, has this numerator and denominator."""
    written = re.fullmatch(
        r"\$?\s*(?:\\d?frac\s*\{(\d{1,20})\}\s*\{(\d{1,20})\}|(\d{1,20})\s*/\s*(\d{1,20}))\s*\$?",
        submission.strip(),
    )
    return written is not None and [int(part) for part in written.groups() if part] == fraction
