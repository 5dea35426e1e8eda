"""The private APIs of other packages that this package needs, each with the reason.

Nothing else imports a private module. `tests/test_private_apis.py` finds out whether the installed
versions still have them. If one is missing, the function here raises an error or works without it.
"""

import importlib.metadata
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from acdc_jax.errors import AcdcError

_log = logging.getLogger(__name__)


class Coordination(NamedTuple):
    """This process's connection to the coordination service of `jax.distributed`.

    Attributes:
        client: Client of the service's key-value store.
        process_id: This process.
        num_processes: All processes.
    """

    client: Any
    process_id: int
    num_processes: int


def coordination() -> Coordination:
    """Return the connection that `jax.distributed.initialize` made.

    Public exchanges (`multihost_utils`) are collectives on the devices: they have to be compiled,
    cannot time out, and would interrupt decoding. orbax uses the same client.

    Raises:
        AcdcError: This version of jax does not have it.
    """
    try:
        from jax._src import distributed

        state = distributed.global_state
        return Coordination(state.client, state.process_id, state.num_processes)
    except (ImportError, AttributeError) as error:
        version = importlib.metadata.version("jax")
        raise AcdcError(
            f"several processes do not work with jax {version} ({error}); install a version of jax "
            "that pyproject.toml names"
        ) from None


def sequential_transfers() -> Any:
    """Return orbax's callback that lets it copy leaves to the host one after the other.

    `ArrayHandler(callback=…)` is public, but the callback's class has no public name. Without it,
    orbax ignores `save_device_host_concurrent_gb`: None is returned, and a whole member is in the
    host's memory for a moment when it is written.
    """
    try:
        from orbax.checkpoint._src.serialization.types import (
            DefaultSerializationStatusCallback,
            TransferPriority,
        )

        priority = TransferPriority.ASYNCHRONOUS_DEPRIORITIZED
    except (ImportError, AttributeError) as error:
        _log.warning("orbax copies members to the host as a whole: %s", error)
        return None

    class Sequential(DefaultSerializationStatusCallback):  # type: ignore[misc]
        """Tells orbax that no leaf has to be on the host at once."""

        def key_priority(self, _: Any) -> Any:
            return priority

    return Sequential()


def set_template_clock(template: str, strftime_now: Callable[[str], str]) -> None:
    """Replace the function by which a chat template writes the date.

    transformers gives every template its own `strftime_now`, and turns functions that are passed to
    a template into texts. It keeps compiled templates. Without this, such templates write today's
    date.

    Args:
        template: The template's text.
        strftime_now: Returns a date in a format of `strftime`.
    """
    try:
        from transformers.utils.chat_template_utils import _compile_jinja_template

        _compile_jinja_template(template).globals["strftime_now"] = strftime_now
    except (ImportError, AttributeError) as error:
        _log.warning("chat templates may write today's date: %s", error)
