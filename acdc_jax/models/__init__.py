"""Decoders in Flax NNX, and Hugging Face folders in and out."""
