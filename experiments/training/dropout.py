"""Dropout off: a policy that draws, is scored and is updated under three masks is three policies.

Ratios would not begin at 1, KL divergences not at 0, and the masks, which come from the global generator, would not be
those of a continued run.
"""

from __future__ import annotations

from torch import nn

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def disable_dropout(model: nn.Module) -> float:
    """Put `model` into evaluation mode, in which it is trained too, with all rates 0; returns the highest it had.

    Attention of transformers reads a rate from a number of its module and the mode, so both are changed. The model's
    configuration keeps its rates: a saved model has those that it came with.
    """
    highest = 0.0
    model.eval()
    for module in model.modules():
        if isinstance(module, DROPOUTS):
            highest, module.p = max(highest, module.p), 0.0
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                highest = max(highest, value)
                setattr(module, name, 0.0)
    return highest
