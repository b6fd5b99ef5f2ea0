"""The models that `rl-exp bench` generates with: of random weights, or a trained run's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch

from ..models.configuration import RlExpConfig
from ..models.initialisation import initialise
from ..models.shapes import AttentionShape, ModelShape
from ..models.transformer import RlExpForCausalLM
from ..runs.files import read_json
from ..runs.foreign_files import loading, refuse_missing_weights

OWN_MODEL = "name the model folder of a trained run, such as outputs/train/<run id>/model"


class GridModels:
    """Models by the names that are shown; each is initialised when it is first asked for, by a new generator."""

    def __init__(self, shapes: Mapping[str, ModelShape], generator: Callable[[], torch.Generator]) -> None:
        self.shapes, self._generator = dict(shapes), generator
        self._made: dict[str, RlExpForCausalLM] = {}

    @classmethod
    def of_policy(cls, folder: str) -> GridModels:
        """The one model of a trained run. Raises ValueError for models not of ours."""
        policy = load_policy(folder)
        shape = policy.config.model_shape()
        models = cls({label(shape.attention): shape}, torch.Generator)
        models._made[label(shape.attention)] = policy
        return models

    def get(self, name: str) -> RlExpForCausalLM:
        """The model of that mechanism, in evaluation mode."""
        if name not in self._made:
            model = RlExpForCausalLM(RlExpConfig.from_shape(self.shapes[name]))
            initialise(model, self._generator())
            self._made[name] = model.eval()
        return self._made[name]


def load_policy(folder: str) -> RlExpForCausalLM:
    """A trained run's model; the configuration has seen that there is one. Raises ValueError for models not of ours."""
    policy_config(folder)
    with loading("bench.policy", folder, OWN_MODEL):
        loaded: Any = RlExpForCausalLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
        model, info = cast("tuple[RlExpForCausalLM, dict[str, Any]]", loaded)
        refuse_missing_weights(info)
    return model.eval()


def policy_config(folder: str) -> RlExpConfig:
    """Raises ValueError where config.json is damaged or another model's."""
    with loading("bench.policy", folder, OWN_MODEL):
        kind = dict(read_json(Path(folder) / "config.json")).get("model_type")
    if kind != RlExpConfig.model_type:
        raise ValueError(f"bench.policy={folder} is a model of type {kind}: use one of rl-exp train")
    with loading("bench.policy", folder, OWN_MODEL):
        config: RlExpConfig = RlExpConfig.from_pretrained(folder)
    return config


def label(shape: AttentionShape) -> str:
    """The paper's way to name a mechanism: its cached heads behind it where they are a choice (gqa-4, gla-2)."""
    name = str(shape.mechanism)
    if name in ("mha", "mqa", "mla"):
        return name
    return f"{name}-{getattr(shape, shape.states_heads_name)}"
