"""A random chat model with a real tokenizer, long enough a window for the scientist's prompts."""

import dataclasses
from pathlib import Path

import jax
from tokenizers import ByteLevelBPETokenizer
from transformers import Qwen2Tokenizer

from acdc_jax.models import hf_export
from acdc_jax.models.transformer import init_params
from acdc_jax.quickstart.task_sets import seed_families
from acdc_jax.quickstart.train import TINY

_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_VOCABULARY = 600
_SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_layers": 2,
    "num_heads": 2,
    "num_kv_heads": 1,
    "head_dim": 16,
}


def write_chat_model(folder: Path, **fields: int) -> Path:
    """Writes `folder`, a Hugging Face folder; the model speaks nonsense.

    Args:
        folder: where.
        fields: of the model's configuration.
    """
    from acdc_jax.tasks import prompts

    texts = [Path(prompts.__file__).read_text(), *(draft.source for draft in seed_families())]
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        texts, vocab_size=_VOCABULARY, special_tokens=list(_SPECIAL), show_progress=False
    )
    source = folder.with_name(folder.name + "-tokenizer")
    source.mkdir(parents=True)
    trained.save_model(str(source))
    tokenizer = Qwen2Tokenizer.from_pretrained(
        str(source),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=_TEMPLATE,
        additional_special_tokens=["<|im_start|>"],
    )
    tokenizer.save_pretrained(str(source))
    config = dataclasses.replace(
        TINY,
        vocab_size=len(tokenizer),
        max_positions=8192,
        tie_embeddings=False,  # a tied random model repeats itself
        **(_SMALL | fields),
    )
    hf_export.save(folder, config, init_params(config, jax.random.key(0)), source)
    return folder
