"""Limits that stand beside a setting are held wherever the setting is, and named in the refusal."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import pytest
from omegaconf import OmegaConf

from conf.limits import checked, limited


@dataclass
class Inner:
    """A part of `Outer`."""

    share: float = limited(0.5, above=0, at_most=1)
    count: int | None = limited(None, at_least=1, fix="or null for all")
    sizes: list[int | None] = limited([1, None], at_least=1, at_most=8, items=1, distinct=True)
    free: float = 1.0


@dataclass
class Outer:
    """Settings with two parts of one schema."""

    rate: float = limited(0.0, at_least=0, below=1)
    first: Inner = field(default_factory=Inner)
    second: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rate=1.0", "rate=1.0: must be at least 0 and below 1"),
        ("first.share=0.0", "first.share=0.0: must be above 0 and at most 1"),
        ("second.share=2.0", "second.share=2.0: must be above 0 and at most 1"),
        ("second.share=.nan", "second.share=nan: must be above 0 and at most 1"),
        ("first.free=.inf", "first.free=inf: must be a finite number"),
        ("first.count=0", "first.count=0: must be at least 1, or null for all"),
        ("first.sizes=[9]", "first.sizes=[9]: every value must be from 1 to 8"),
        ("first.sizes=[]", "first.sizes=[]: needs at least 1 value"),
        ("first.sizes=[2,null,2]", "first.sizes=[2,null,2]: names a value twice"),
    ],
)
def test_a_value_beyond_its_limits_is_refused_by_its_full_name(override, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        checked(OmegaConf.merge(OmegaConf.structured(Outer), OmegaConf.from_dotlist([override])))


def test_values_within_their_limits_become_the_dataclass_with_lists_of_its_own():
    one, other = checked(OmegaConf.structured(Outer)), checked(OmegaConf.structured(Outer))
    assert one == Outer()
    one.first.sizes.append(3)
    assert other.first.sizes == Inner().sizes == [1, None]


def test_a_part_is_checked_under_the_name_of_its_place():
    with pytest.raises(ValueError, match=r"^task\.scorer\.share=2\.0: "):
        checked(OmegaConf.structured(Inner(share=2.0)), "task.scorer")
