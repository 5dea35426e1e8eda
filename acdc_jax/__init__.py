"""AC/DC in JAX: coevolve an archive of merged language models with a pool of tasks."""

__version__ = "0.1.0"
