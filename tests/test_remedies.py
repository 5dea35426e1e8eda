"""Errors name remedies that a started run accepts: its flags may change, or the text says how."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import acdc_jax
from acdc_jax import flags
from acdc_jax.config import Config, free_flags

_FOLDER = Path(acdc_jax.__file__).parent
_FLAGS = {name for part in flags.sections_of(Config).values() for name in part.flags()}

# Flags that a started run refuses, by the file whose error names them.
_EXEMPT = {
    ("commands/seeds.py", "base_model"): "acdc seeds check starts no run",
    ("commands/seeds.py", "seed_models"): "acdc seeds check starts no run",
    ("comparison.py", "init_population"): "acdc compare checks this before its runs start",
    ("evaluation/lm_eval/models.py", "chat_template"): "names the file chat_template.jinja",
    ("evaluation/truncation.py", "max_new_tokens"): "says: in a new run",
    ("evolution/propose.py", "min_parents"): "an archive never has fewer members than seeds",
    ("inference/continuous_batching.py", "batch_size"): "an argument of the library",
    ("inference/continuous_batching.py", "max_new_tokens"): "of the library; runs check lengths",
    ("inference/memory.py", "max_new_tokens"): "says: start anew",
    ("inference/overflow.py", "dtype"): "runs look for overflow in generation 0",
    ("models/chat_template.py", "chat_template"): "templates are tried before generation 0",
    ("models/hf.py", "dtype"): "weights are first read before generation 0",
    ("models/merge_compatibility.py", "adopt_base_config"): "before generation 0",
    ("runtime/best_of_n.py", "temperature"): "a flag of acdc evaluate",
    ("runtime/best_of_n.py", "top_p"): "a flag of acdc evaluate",
    ("runtime/member_text.py", "chat_template"): "names the file to restore",
    ("runtime/setup.py", "base_model"): "missing flags, before generation 0",
    ("runtime/setup.py", "children"): "before generation 0",
    ("runtime/setup.py", "max_new_tokens"): "before generation 0",
    ("runtime/setup.py", "min_parents"): "before generation 0",
    ("runtime/setup.py", "scientist"): "names the flag that --scientist_devices helps",
    ("runtime/setup.py", "seed_models"): "missing flags, before generation 0",
    ("runtime/setup.py", "strategy"): "before generation 0",
    ("runtime/setup.py", "gym_families"): "before generation 0",
    ("runtime/setup.py", "seed_families"): "before generation 0",
    ("tasks/adapt.py", "judged_tasks"): "why a draft is rejected, and no error",
    ("tasks/chosen_families.py", "max_new_tokens"): "says: in a new run",
    ("tasks/first_pool.py", "initial_tasks"): "says how many drafts are valid; no remedy",
    ("tasks/gym/scientist.py", "gym_families"): "says: in a new run",
    ("tasks/gym/scientist.py", "scientist"): "names the flag that chose the families",
    ("tasks/gym/task_sets.py", "gym_families"): "says: in a new run",
}
_MESSAGES = ("print_line", "_log.warning", "_LOG.warning")
# Names its own arguments, or flags of a command that starts no run.
_LIBRARY = ("bench", "evolution/merge", "evaluation/evaluate_models.py", "training")


def _texts(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value


def _named_flags() -> set[tuple[str, str]]:
    """File and flag, for each flag that the text of an error names."""
    named = set()
    for path in _FOLDER.rglob("*.py"):
        name = str(path.relative_to(_FOLDER))
        if name.startswith(_LIBRARY):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            message, pattern = None, r"--(?:no)?([a-z_]+)|--([a-z_]+)"
            if isinstance(node, ast.Raise):  # an error of the library names it without dashes
                message, pattern = node.exc, pattern + r"|\b([a-z]+_[a-z_]+)\b"
            elif isinstance(node, ast.Return):  # of a function that describes a problem
                message = node.value
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in _MESSAGES:
                message = node
            elif isinstance(node, ast.arguments):  # of a function that writes a message
                message = ast.Tuple([d for d in (*node.defaults, *node.kw_defaults) if d])
            # Errors about options come before anything of a run is read.
            if message is not None and "OptionError" not in ast.unparse(message):
                matches = re.findall(pattern, " ".join(_texts(message)))
                named |= {(name, word) for match in matches for word in match if word in _FLAGS}
    return named


def test_remedies_are_accepted_by_started_runs() -> None:
    named = _named_flags()
    assert ("runtime/setup.py", "scientist_devices") in named
    refused = {(file, flag) for file, flag in named if flag not in free_flags()}
    assert refused - _EXEMPT.keys() == set(), "make the flag resumable, or name another remedy"
    assert _EXEMPT.keys() - refused == set(), "these are not named any more"


def test_what_rescues_a_started_run_may_change() -> None:
    rescues = {
        "allow_unsafe_sandbox",
        "embedding_model",
        "gibberish_filter",
        "mesh",
        "scientist_devices",
        "scientist_max_tokens",
        "scientist_model",
        "scientist_url",
    }
    assert rescues <= free_flags()
