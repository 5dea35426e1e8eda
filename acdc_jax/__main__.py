"""`python -m acdc_jax` is the `acdc` command."""

from acdc_jax.commands.main import program

program()
