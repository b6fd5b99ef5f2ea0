"""Models and tokenizers made by someone else: whatever a library raises on their files becomes one clear line.

Loaders are called with `trust_remote_code=False` and `use_safetensors=True` where they are called; here is only what
becomes of their errors, and of weights that are not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def loading(setting: str, path: str, hint: str) -> Iterator[None]:
    """Raises ValueError `setting=path cannot be loaded (reason): hint` for any error of the block.

    All of Exception on purpose: transformers and tokenizers check little, and an odd file breaks whatever meets it
    first (AttributeError for `null`, TypeError for a list, a bare Exception of Rust's). MemoryError is not the file's.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if "custom code" in str(error) or "trust_remote_code" in str(error):
            reason = "it wants to run code of its own"
        elif "ignore_mismatched_sizes" in str(error):
            reason = "its weights have other shapes than its config.json says"
        elif isinstance(error, KeyError | TypeError | AttributeError | IndexError):
            reason = f"one of its JSON files is malformed: {type(error).__name__}: {reason}"
        raise ValueError(f"{setting}={path} cannot be loaded ({reason[:300]}): {hint}") from error


def refuse_missing_weights(loading_info: Mapping[str, Any]) -> None:
    """ValueError where the files lack weights: transformers would draw them at random and only warn.

    `loading_info` is what `from_pretrained(..., output_loading_info=True)` returns beside the model.
    """
    missing = sorted(loading_info["missing_keys"])
    if missing:
        raise ValueError(f"its files lack {len(missing)} of the model's weights, such as {missing[0]}")
