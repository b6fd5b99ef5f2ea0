"""Write a model so that it loads anywhere with `trust_remote_code=True`, without this package."""

from __future__ import annotations

from pathlib import Path

from .configuration import RlExpConfig
from .transformer import RlExpForCausalLM


def export_for_hub(model: RlExpForCausalLM, directory: str | Path) -> Path:
    """Save weights, configuration and the code of this folder to `directory`, and return it.

    The code files travel as they stand (they import only each other, torch and transformers), and `config.json`
    names the classes, so that `AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True)` works in a
    process that has never heard of rl-exp. A later plain `save_pretrained` writes no code again.
    """
    directory = Path(directory)
    automatic = dict(model.config.auto_map)
    try:
        RlExpConfig.register_for_auto_class()
        RlExpForCausalLM.register_for_auto_class("AutoModelForCausalLM")
        model.save_pretrained(directory)
    finally:
        RlExpConfig._auto_class = None
        RlExpForCausalLM._auto_class = None
        model.config.auto_map = automatic
    return directory
