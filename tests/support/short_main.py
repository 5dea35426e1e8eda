"""`acdc` as if torch were not installed: transformers would import it for seconds."""

import no_torch  # noqa: F401

from acdc_jax.commands.main import program

if __name__ == "__main__":
    program()
