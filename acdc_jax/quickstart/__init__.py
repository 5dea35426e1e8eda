"""The quickstart: a toy language, tiny models that speak it, a scientist that writes tasks in it.

It is a client of the library. Runs find it by name, through the entry points in `pyproject.toml`
(see `acdc_jax.plugins`): seed models, seed families and held-out tasks `tiny`, scientist
`procedural`.
"""
