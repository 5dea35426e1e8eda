"""Responses that reach the limit of tokens before they end.

Such a response may lack its answer, which then counts as wrong. If that happens often, scores say
how long members write rather than what they can do.
"""

import logging
import statistics
from collections.abc import Iterable, Mapping, Sequence

from acdc_jax import multihost
from acdc_jax.evaluation.responses import Response

_log = logging.getLogger(__name__)

WARN_ABOVE = 0.05  # share of responses


def truncated_shares(responses: Iterable[tuple[str, bool]]) -> dict[str, float]:
    """Return model → share of its responses that are truncated.

    Args:
        responses: The model of each response, and whether it is truncated.
    """
    totals: dict[str, int] = {}
    truncated: dict[str, int] = {}
    for model, is_truncated in responses:
        totals[model] = totals.get(model, 0) + 1
        truncated[model] = truncated.get(model, 0) + is_truncated
    return {model: truncated[model] / total for model, total in totals.items()}


def truncation_warning(
    shares: Mapping[str, float], limit: int, remedy: str = "--max_new_tokens in a new run"
) -> str | None:
    """Return a line about the models that reach the limit too often, or None if there are none.

    Args:
        shares: Model → share of its responses that are truncated.
        limit: Longest response, in tokens.
        remedy: The setting that raises the limit.
    """
    over = [name for name, share in shares.items() if share > WARN_ABOVE]
    if not over:
        return None
    worst = max(over, key=shares.__getitem__)
    share = f"{100 * shares[worst]:.0f} %"
    if len(shares) == 1:
        models = f"{worst} reaches the limit of {limit} tokens in {share} of its responses"
    else:
        models = (
            f"{len(over)} of {len(shares)} models reach the limit of {limit} tokens in more than "
            f"{100 * WARN_ABOVE:.0f} % of their responses, {worst} in {share}"
        )
    return f"{models}; an answer that is cut counts as wrong: raise {remedy}"


def warn_of_truncation(responses: Sequence[Response], limit: int) -> None:
    """Log a line if most members reach the limit of tokens too often.

    A few damaged members may write without end, and no limit would suffice for them.

    Args:
        responses: All responses of the members.
        limit: Longest response, in tokens.
    """
    shares = truncated_shares((response.member, response.truncated) for response in responses)
    line = truncation_warning(shares, limit)
    if line and statistics.median(shares.values()) > WARN_ABOVE and multihost.is_first():
        _log.warning("%s", line)
