"""The embedded seed models: a skill language, its tokenizer, and their training."""
