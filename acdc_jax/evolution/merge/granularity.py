"""Merge groups: which weights share a coefficient."""

import re
from collections.abc import Iterable
from typing import Literal

Granularity = Literal["global", "layer", "module"]

# The first match decides. A captured layer number becomes part of the name.
_MODULES = (
    (re.compile(r"embed\.weight"), "embedding"),
    (re.compile(r"layers\.(\d+)\.(?:attention\..+|attention_norm\.weight)"), "attention"),
    (re.compile(r"layers\.(\d+)\.(?:mlp\..+|mlp_norm\.weight)"), "mlp"),
    (re.compile(r"(?:norm|head)\.weight"), "head"),
)


def module_groups(
    paths: Iterable[str], granularity: Granularity
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Assign every weight to the merge group whose coefficient it takes.

    Args:
        paths: Weight paths, such as `layers.0.attention.q.weight`.
        granularity: "global" (one group), "layer" (embedding, each layer, head) or "module"
            (embedding, attention and MLP of each layer with its norm, head). The head is the final
            norm and, if it is not tied, the output projection.

    Returns:
        The names of the groups from input to output, and the group's index of each path.

    Raises:
        ValueError: A path belongs to no module.
    """
    groups: dict[str, tuple[int, str]] = {}
    for path in paths:
        module, layer = _module(path)
        if granularity == "global":
            groups[path] = (0, "all")
        elif layer is None:
            groups[path] = (-1 if module == "embedding" else 1 << 30, module)
        else:
            groups[path] = (layer, f"layer {layer}" + f" {module}" * (granularity == "module"))
    names = tuple(name for _, name in sorted(set(groups.values())))
    return names, {path: names.index(name) for path, (_, name) in groups.items()}


def _module(path: str) -> tuple[str, int | None]:
    for pattern, module in _MODULES:
        if match := pattern.fullmatch(path):
            return module, int(match.group(1)) if match.groups() else None
    raise ValueError(f"weight {path!r} belongs to no module that can be merged")
