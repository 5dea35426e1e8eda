"""Write a run's held-out tasks as a benchmark of the harness: a YAML file, data, and a filter.

`lm_eval --include_path=FOLDER --tasks=held_out` can also read the folder, if this package is
installed.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from acdc_jax.evaluation.lm_eval import filters
from acdc_jax.files import write_atomic
from acdc_jax.tasks.task import Draft

NAME = "held_out"

_YAML = """\
# {count} held-out tasks, the first instance of each.
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: generate_until
description: {system}
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  until: {until}
  max_gen_toks: {longest}
  do_sample: false
filter_list:
  - name: answer
    filter:
      - function: custom
        filter_fn: !function {module}.declared_answers
      - function: take_first
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
num_fewshot: 0
metadata:
  version: 1.0
"""


def write_held_out(
    folder: Path,
    drafts: Sequence[Draft],
    *,
    system_prompt: str,
    max_new_tokens: int,
    stop_strings: Sequence[str],
) -> None:
    """Write the benchmark. Unchanged files are not touched, so that the harness's caches hold.

    Args:
        folder: Folder to write to; created if it does not exist.
        drafts: The tasks; each has a reference solution.
        system_prompt: System message; empty for none.
        max_new_tokens: Longest response.
        stop_strings: Texts that end a response.

    Raises:
        ValueError: A task has no reference solution.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = (folder / f"{NAME}.jsonl").resolve()
    lines = []
    for draft in drafts:
        if draft.reference is None:
            raise ValueError(f"held-out task {draft.name} has no reference answer to compare with")
        answer = next(iter(draft.reference.values()))
        line = {"task": draft.name, "question": draft.example_instruction, "answer": answer}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    text = _YAML.format(
        count=len(lines),
        name=NAME,
        data=json.dumps(str(data)),
        system=json.dumps(system_prompt),
        until=json.dumps(list(stop_strings)),
        longest=max_new_tokens,
        module=filters.__name__,
    )
    for path, content in ((data, "".join(lines)), (folder / f"{NAME}.yaml", text)):
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            write_atomic(path, content)
