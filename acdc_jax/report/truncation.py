"""Which of a run's members wrote responses that reached the limit of tokens."""

from collections.abc import Collection, Sequence
from typing import Any

from acdc_jax.evaluation.truncation import WARN_ABOVE, truncated_shares, truncation_warning
from acdc_jax.runtime.run_reader import RunRecord, read_responses


def run_truncation(run: RunRecord, members: Collection[str]) -> dict[str, float]:
    """Return member → share of its recorded responses that are truncated.

    Members without a record are left out; runs of older versions have none.
    """
    return truncated_shares(
        (entry["member"], entry["truncated"])
        for entry in read_responses(run, members)
        if "truncated" in entry
    )


def run_warning(run: RunRecord, shares: dict[str, float]) -> str | None:
    """Return a line about members that reach the limit too often, or None if there are none."""
    return truncation_warning(shares, run.settings.decode.max_new_tokens)


def truncation_rows(run: RunRecord) -> dict[str, Any] | None:
    """Return the shares of the task force, the archive and the seeds; None without a record.

    Returns:
        `limit` in tokens, `rows` of role, member, share and whether it is too large, and `warning`.
    """
    roles: Sequence[tuple[str, Sequence[str]]] = (
        ("task force", run.task_force),
        ("archive", run.manifest.archive),
        ("seed", run.seeds),
    )
    role_of: dict[str, str] = {}
    for role, members in roles:
        for member in members:
            role_of.setdefault(member, role)
    shares = run_truncation(run, role_of)
    if not shares:
        return None
    return {
        "limit": run.settings.decode.max_new_tokens,
        "rows": [
            (role, member, shares[member], shares[member] > WARN_ABOVE)
            for member, role in role_of.items()
            if member in shares
        ],
        "warning": run_warning(run, shares),
    }
