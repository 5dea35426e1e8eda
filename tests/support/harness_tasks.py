"""Local tasks for lm-evaluation-harness: a YAML file and its data."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from acdc_jax.evaluation.lm_eval.tasks import Benchmark, Prompting, load_benchmarks

CHOICE = """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
fewshot_split: test
num_fewshot: 1
"""
GENERATE = """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs:
  until: ["7", "zq"]
  max_gen_toks: 12
filter_list:
  - name: first
    filter:
      - function: take_first
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
num_fewshot: 0
"""
ROLLING = """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - metric: byte_perplexity
    aggregation: weighted_perplexity
    higher_is_better: false
num_fewshot: 0
"""


def write_task(folder: Path, name: str, text: str, documents: Sequence[Mapping[str, Any]]) -> Path:
    """Writes a task; returns its YAML file."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in documents))
    source = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\n"
    path = folder / f"{name}.yaml"
    path.write_text(f"task: {name}\n{source}test_split: test\n{text}")
    return path


def load(*paths: Path, chat: bool = False) -> list[Benchmark]:
    """Loads tasks by their files."""
    return load_benchmarks([str(path) for path in paths], [], Prompting(chat=chat))
