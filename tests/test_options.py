"""Option dataclasses refuse wrong types, unknown choices and numbers out of bounds."""

import dataclasses
import math
from typing import Any, Literal

import pytest

from acdc_jax import options
from acdc_jax.options import OptionError, option


@dataclasses.dataclass(frozen=True)
class _Options:
    switch: bool = option(False, "A switch.")
    count: int = option(3, "A number.", low=1)
    share: float = option(1.0, "A share.", above=0, high=1, resumable=True)
    text: str = option("", "A text.")
    kind: Literal["a", "b"] = option("a", "A kind.")
    sizes: tuple[int, ...] = option((3, 8), "Sizes.", low=1)
    kinds: tuple[Literal["a", "b"], ...] = option((), "Kinds.")
    limit: int | None = option(None, "A limit; none: no limit.", low=0)
    name: str | None = option(None, "A name; none: no name.")

    def __post_init__(self) -> None:
        options.check(self)
        if self.kind == "a" and self.share < 1:
            raise OptionError(self, "share", "must be 1 for {kind}; drop it")


@pytest.mark.parametrize(
    "values",
    [
        {"share": 1},  # an integer is a number
        {"share": 0.5, "kind": "b"},
        {"limit": 0},
        {"sizes": ()},
        {"kinds": ("b", "a")},
        {"name": "none"},
    ],
)
def test_values_that_fit(values: dict[str, Any]) -> None:
    _Options(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"switch": 1}, "switch must be true or false, got 1"),
        ({"count": True}, "count must be an integer, got True"),
        ({"count": 1.0}, "count must be an integer, got 1.0"),
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"share": 1.5}, "share must be in (0, 1], got 1.5"),
        ({"share": 0}, "share must be in (0, 1], got 0"),
        ({"share": math.nan}, "share must be a finite number, got nan"),
        ({"share": 0.5}, "share must be 1 for kind='a'; drop it, got 0.5"),
        ({"text": None}, "text must be a text, got None"),
        ({"kind": "A"}, "kind must be one of a, b, got 'A'"),
        ({"sizes": [3]}, "sizes must be a tuple of integers, got [3]"),
        ({"sizes": (3, 0)}, "sizes must be at least 1, got (3, 0)"),
        ({"kinds": ("c",)}, "kinds must be a tuple of items from a, b, got ('c',)"),
        ({"limit": -1}, "limit must be at least 0, got -1"),
        ({"limit": ""}, "limit must be an integer, or None, got ''"),
        ({"name": ""}, "name must be a text, or None, got ''"),
    ],
)
def test_values_that_do_not_fit(values: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as error:
        _Options(**values)
    assert str(error.value) == message
    assert isinstance(error.value, ValueError)


def test_options_are_listed_with_what_they_declare() -> None:
    listed = {option.name: option for option in options.options_of(_Options)}
    assert list(listed) == [field.name for field in dataclasses.fields(_Options)]
    share = listed["share"]
    assert (share.type, share.default, share.help) == (float, 1.0, "A share.")
    assert (share.above, share.low, share.high, share.resumable) == (0, None, 1, True)
    assert not listed["count"].resumable
