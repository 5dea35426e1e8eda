"""Examples of the library: each is a program that a test runs on tiny checkpoints."""
