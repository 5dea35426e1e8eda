"""Task families: their format, validation, pool and scientists, and the clients of LLMs."""
