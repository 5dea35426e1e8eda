"""Decoders in Flax NNX: Hugging Face folders, GGUF files and LoRA adapters in, folders out."""
