"""GGUF files, as Hugging Face folders: header, configuration, tensors and tokenizer."""
