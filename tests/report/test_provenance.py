"""What base and seeds say about themselves, and what a merge of them may say."""

import json
from pathlib import Path

import pytest

from acdc_jax.models.model_card import UNKNOWN, bases_of, licence_of
from acdc_jax.report.provenance import Origin, joint_licence, origins
from acdc_jax.run_options import SeedOptions
from acdc_jax.runtime.sources import Sources


def _folder(path: Path, card: str = "", **fields: object) -> str:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(fields))
    if card:
        (path / "README.md").write_text(card)
    return str(path)


@pytest.mark.parametrize(
    ("card", "fields", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n# A model", {"license": "mit"}, "apache-2.0"),
        ("---\ntags: [a]\n---\n# A model", {"license": "mit"}, "mit"),
        ("# No header", {}, UNKNOWN),
        ("---\nlicense: [\n---\n", {}, UNKNOWN),
        ("", {"license": 3}, UNKNOWN),
    ],
)
def test_licences(card: str, fields: dict[str, object], licence: str, tmp_path: Path) -> None:
    assert licence_of(Path(_folder(tmp_path / "model", card, **fields))) == licence


@pytest.mark.parametrize(
    ("header", "bases"),
    [
        ("base_model: Qwen/Qwen2.5-0.5B", ("Qwen/Qwen2.5-0.5B",)),
        ("base_model:\n- a/b\n- c/d", ("a/b", "c/d")),
        ("base_model: 7", ()),
        ("license: mit", ()),
    ],
)
def test_bases(header: str, bases: tuple[str, ...], tmp_path: Path) -> None:
    assert bases_of(Path(_folder(tmp_path / "model", f"---\n{header}\n---\n"))) == bases


def test_origins(tmp_path: Path) -> None:
    cached = tmp_path / "models--owner--coder" / "snapshots"
    cached.mkdir(parents=True)
    base = _folder(tmp_path / "base", "---\nlicense: mit\n---\n")
    coder = _folder(cached / "0a1b", license="llama3")
    sources = Sources(base, "", {"g000-m00": coder, "g000-m01": str(tmp_path / "gone")})
    options = SeedOptions(("owner/coder@v1", str(tmp_path / "gone")), base)
    assert origins(sources, options) == [
        Origin("base", "base", "base", "", "mit"),
        Origin("g000-m00", "seed", "owner/coder", "owner/coder", "llama3"),
        Origin("g000-m01", "seed", "gone", "", UNKNOWN),
    ]
    tiny = origins(sources, SeedOptions(("tiny",)))
    assert [one.name for one in tiny] == ["tiny base", "tiny 0a1b", "tiny gone"]


def test_origins_of_adapters(tmp_path: Path) -> None:
    """A base and its adapter, named together by Hub ids, or the adapter alone."""
    base = _folder(tmp_path / "0a1b", license="llama3")
    lora = _folder(tmp_path / "2c3d", "---\nlicense: mit\n---\n")
    sources = Sources(base, "", dict.fromkeys(("g000-m00", "g000-m01"), f"{base}+{lora}"))
    for first in ("owner/base@v1+owner/lora", "owner/lora@v2"):
        options = SeedOptions((first, lora), "owner/base")
        assert origins(sources, options) == [
            Origin("base", "base", "owner/base", "owner/base", "llama3"),
            Origin("g000-m00", "seed", "owner/base", "owner/base", "llama3"),
            Origin("g000-m00", "adapter", "owner/lora", "owner/lora", "mit"),
            Origin("g000-m01", "seed", "owner/base", "owner/base", "llama3"),
            Origin("g000-m01", "adapter", "2c3d", "", "mit"),
        ]


def test_a_merge_has_the_terms_of_all() -> None:
    def joint(*licences: str) -> tuple[str, str]:
        return joint_licence(
            [Origin(str(i), "seed", "", "", one) for i, one in enumerate(licences)]
        )

    assert joint("mit", "mit")[0] == "mit"
    assert joint(UNKNOWN)[0] == UNKNOWN
    name, note = joint("mit", UNKNOWN)
    assert name == "other"
    assert "unknown" in note
