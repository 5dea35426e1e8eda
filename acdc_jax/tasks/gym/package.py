"""Import reasoning-gym, which is optional and takes seconds, on first use."""

from typing import Any

from acdc_jax.errors import AcdcError


def factory() -> Any:
    """Return the module `reasoning_gym.factory`.

    Raises:
        AcdcError: The package is not installed.
    """
    try:
        from reasoning_gym import factory
    except ImportError as error:
        raise AcdcError(
            f"reasoning-gym cannot be imported ({error}); pip install 'acdc_jax[gym]'"
        ) from None
    return factory
