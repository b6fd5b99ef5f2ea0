"""Which values a setting takes, stated where the setting is declared and checked in one place.

`steps: int = limited(100, at_least=1)` is a dataclass field with a default of 100; `checked` refuses another value than
the limits allow by the setting's full name. What concerns several settings is checked in their `__post_init__`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf

KEY = "limits"  # in the metadata of a field

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """Bounds of a number, or of every number of a list. null passes wherever the type of the setting allows it."""

    at_least: float = -math.inf
    above: float = -math.inf
    at_most: float = math.inf
    below: float = math.inf
    items: int = 0  # of a list, at the least
    distinct: bool = False  # whether a list names every value once
    fix: str = ""  # how to choose another value: ends the message

    def refusal(self, value: Any) -> str | None:
        """What is wrong with `value`, as the end of a sentence; None where nothing is."""
        why = None
        if isinstance(value, list):
            if len(value) < self.items:
                why = f"needs at least {self.items} value{'s' if self.items > 1 else ''}"
            elif self.distinct and len(value) > len(set(value)):
                why = "names a value twice"
            elif not all(self._allows(item) for item in value):
                why = f"every value must be {self._range()}"
        elif not self._allows(value):
            why = f"must be {self._range()}"
        return f"{why}, {self.fix}" if why and self.fix else why

    def _allows(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return True
        return self.at_least <= value <= self.at_most and self.above < value < self.below

    def _range(self) -> str:
        if self.at_least > -math.inf and self.at_most < math.inf:
            return f"from {_plain(self.at_least)} to {_plain(self.at_most)}"
        bounds = {"at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below}
        return " and ".join(f"{word} {_plain(bound)}" for word, bound in bounds.items() if math.isfinite(bound))


def limited(
    default: T,
    *,
    at_least: float = -math.inf,
    above: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
    items: int = 0,
    distinct: bool = False,
    fix: str = "",
) -> T:
    """A dataclass field with a default and limits: see `Limits`. A list is copied for every instance."""
    metadata = {KEY: Limits(at_least, above, at_most, below, items, distinct, fix)}
    if isinstance(default, list):
        return field(default_factory=lambda: copy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def checked(node: DictConfig, name: str = "") -> Any:
    """The dataclass that a structured configuration describes; `name` is its full name where it is a part of another.

    Raises ValueError with full name, value and limits for a number that is not finite or beyond its limits.
    """
    for key, value, limits in _settings(node, name):
        plain = value if limits is None else OmegaConf.to_container(value) if OmegaConf.is_list(value) else value
        if limits is not None and (why := limits.refusal(plain)):
            raise ValueError(f"{key}={shown(plain)}: {why}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{key}={value}: must be a finite number")
    return OmegaConf.to_object(node)


def shown(value: Any) -> str:
    """A value as an override has it: `[fp32,bf16]`, `null`."""
    if isinstance(value, Iterable) and not isinstance(value, str):
        return f"[{','.join(shown(item) for item in value)}]"
    return "null" if value is None else value.name if isinstance(value, Enum) else str(value)


def _plain(bound: float) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"


def _settings(node: Any, name: str) -> Iterator[tuple[str, Any, Limits | None]]:
    """Every setting below `node` with its full name and its limits; items of lists follow their list."""
    if OmegaConf.is_list(node):
        for item in node:
            yield from _settings(item, name)
    if not OmegaConf.is_dict(node):
        yield name, node, None
        return
    schema = OmegaConf.get_type(node)
    limits = {item.name: item.metadata.get(KEY) for item in fields(schema)} if is_dataclass(schema) else {}
    for key, value in node.items():
        full = f"{name}.{key}" if name else str(key)
        if limits.get(str(key)) is not None:
            yield full, value, limits[str(key)]
        yield from _settings(value, full)
