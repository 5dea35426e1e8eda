"""A run whose seeds are LoRA adapters by PEFT, named alone or with a base."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from acdc_jax.commands.main import main
from acdc_jax.errors import AcdcError
from acdc_jax.runtime.seed_models import check_folders

pytestmark = [
    pytest.mark.xdist_group("torch"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
Merged = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def seeds(
    models: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Merged]]:
    """A folder with `base` and the adapters `lora-a` and `lora-b`; and PEFT's merged weights."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    out, merged = tmp_path_factory.mktemp("seeds"), {}
    shutil.copytree(models[0], out / "base")
    (out / "base" / "README.md").write_text("---\nlicense: mit\n---\n")
    for number, name in enumerate(("lora-a", "lora-b")):
        torch.manual_seed(number)
        config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = AutoModelForCausalLM.from_pretrained(out / "base")
            model = get_peft_model(model, config)
            model.save_pretrained(out / name)
            state = model.merge_and_unload().state_dict()
        merged[name] = {key: value.numpy() for key, value in state.items()}
        card = f"---\nlicense: apache-2.0\nbase_model: {out / 'base'}\n---\n"
        (out / name / "README.md").write_text(card if number else "# No header")
    return out, merged


def test_a_run(
    seeds: tuple[Path, dict[str, Merged]],
    arguments: Callable[..., list[str]],
    skip_measuring: Callable[[pytest.MonkeyPatch], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Members are PEFT's merged models; dropped ones are rebuilt without the cached folders."""
    from huggingface_hub import ModelCard

    folder, merged = seeds
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    skip_measuring(monkeypatch)
    run_dir, base = tmp_path / "run", folder / "base"
    second = f"{base}+{folder / 'lora-b'}"
    seeds_flag = [folder / "lora-a", second]
    assert main(arguments(run_dir, base, seeds_flag, "--generations=0")) == 0
    sources = json.loads((run_dir / "sources.json").read_text())
    assert sources["base"] == str(base)
    names = {f"g000-m0{i}": f"{base}+{folder / f'lora-{letter}'}" for i, letter in enumerate("ab")}
    assert sources["seeds"] == names
    shutil.rmtree(tmp_path / "cache")
    child = max(path.name for path in (run_dir / "members").iterdir())
    for member in ("g000-m00", "g000-m01", child):
        shutil.rmtree(run_dir / "members" / member, ignore_errors=True)
        assert main(["export", str(run_dir), member, str(tmp_path / member)]) == 0
    for member, weights in zip(names, merged.values(), strict=True):
        actual = load_file(tmp_path / member / "model.safetensors")
        for key, value in actual.items():
            np.testing.assert_allclose(value, weights[key], rtol=3e-7, atol=1e-6, err_msg=key)
    card = ModelCard.load(tmp_path / child / "README.md")
    assert card.data.license == "other"
    rows = [line for line in card.text.splitlines() if line.startswith("| `")]
    assert rows == [
        "| `base` | base | base | mit |",
        "| `g000-m00` | seed | base | mit |",
        "| `g000-m00` | adapter | lora-a | unknown |",
        "| `g000-m01` | seed | base | mit |",
        "| `g000-m01` | adapter | lora-b | apache-2.0 |",
    ]


def test_another_base(
    seeds: tuple[Path, dict[str, Merged]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter alone of another base is told, unless its name is another path of this one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, _ = seeds
    base, lora = folder / "base", Path(shutil.copytree(folder / "lora-a", tmp_path / "lora"))
    path = lora / "adapter_config.json"
    config: dict[str, Any] = json.loads(path.read_text())

    def notes(recorded: str | None, name: str = str(lora)) -> list[str]:
        path.write_text(json.dumps(config | {"base_model_name_or_path": recorded}))
        lines: list[str] = []
        checked = check_folders(str(base), [name], tell=lines.append)
        assert checked.names[checked.seeds[0]] == f"{base}+{lora}"
        return lines

    assert notes(None) == notes("") == notes("Owner/Base") == notes("/gone/base/") == []
    assert notes("Owner/other") == [
        f"{lora}: was trained on 'Owner/other', and is applied to the base {base}; to apply it to "
        f"another model, name it as BASE+{lora}"
    ]
    assert notes("Owner/other", f"{base}+{lora}") == []
    with pytest.raises(
        AcdcError, match=r"lora: is an adapter of 'Owner/other' .*; name it as BASE"
    ):
        check_folders(str(lora), [str(base)])
