"""Settings that were given another name: the old one is refused with the new one in the message."""

from __future__ import annotations

from collections.abc import Iterable

RENAMED = {  # as on the command line: a setting, or a setting with its value -> what to write instead
    "policy_gradient=ppo": "policy_gradient=rloo_clipped",  # it has no value network
}


def refusal_of_old_names(overrides: Iterable[str]) -> str | None:
    """What to write instead of the first override with an old name; None where there is none."""
    for override in overrides:
        setting, _, values = override.lstrip("+").partition("=")
        for old in (setting, *(f"{setting}={value}" for value in values.split(","))):
            if old in RENAMED:
                return f"{old} was renamed: use {RENAMED[old]}"
    return None
