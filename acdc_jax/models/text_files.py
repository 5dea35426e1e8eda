"""The files of a Hugging Face folder beside its weights, which are downloaded and copied."""

import fnmatch
from collections.abc import Collection
from pathlib import Path

MODEL_CARD = "README.md"  # with base and licence
TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
)
TEXT_FILES = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    *TOKENIZER_FILES,
)


def list_files(folder: Path, patterns: Collection[str]) -> dict[str, Path]:
    """Return the files of a folder whose names match a pattern, by name."""
    return {
        path.name: path
        for path in sorted(folder.iterdir())
        if path.is_file() and any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns)
    }
