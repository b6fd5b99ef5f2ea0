"""What a training run will cost, by arithmetic alone: nothing is loaded, made or measured."""

from __future__ import annotations

import shutil
from pathlib import Path

from conf.data_config import TokenizerKind
from conf.rlhf_config import PolicyTaskConfig, RlhfConfig
from conf.train_config import TrainConfig
from experiments.training.choices import OptimizerName, Precision

VOCABULARIES = {TokenizerKind.bytes: 258, TokenizerKind.symbols: 16}
BYTES = 4  # of a number: weights, gradients and moments are fp32


def cost_of(config: object) -> list[str]:
    """Lines on parameters, tokens, arithmetic, memory and disk; none for commands that train nothing.

    With byte-level BPE the vocabulary is the one asked for: a small text may have fewer words. Activations are those
    that a decoder keeps for its backward pass, without the vocabulary's logits, which are never kept as a whole.
    """
    if not isinstance(config, TrainConfig):
        return []
    if isinstance(config, PolicyTaskConfig) and not config.policy.made_by_train:
        return _completions(config)
    vocabulary = VOCABULARIES.get(config.tokenizer.kind, config.tokenizer.vocabulary_size)
    if config.tokenizer.kind is TokenizerKind.hub:
        return [f"cost: known when the tokenizer {config.tokenizer.path} is read", *_completions(config)]
    training, shape = config.training, config.model_shape(vocabulary)
    parameters, tokens = shape.parameters(), training.steps * training.tokens_per_step
    operations = tokens * shape.training_flops_per_token()
    width, heads = config.model.hidden_size, config.model.query_heads * config.model.head_dim
    kept = config.model.layers * (4 * width + 4 * heads + 3 * shape.feed_forward_dim)  # numbers of a token
    size = 4 if training.precision is Precision.fp32 else 2
    activations = kept * size * training.tokens_per_step // training.accumulation
    two_moments = parameters  # with Muon the matrices have one; embeddings have AdamW's
    if config.optimizer.name is OptimizerName.muon:
        two_moments = vocabulary * width * (1 if config.model.tie_embeddings else 2)
    checkpoint, free = BYTES * (2 * parameters + two_moments), _free(Path(config.output_dir))
    disk = checkpoint * (training.keep_checkpoints + 1) + BYTES * parameters
    lines = [
        f"model: {parameters:,} parameters (vocabulary {vocabulary:,})",
        f"training: {training.steps:,} steps, {tokens:,} tokens, {operations:.2g} FLOPs",
        f"memory: {_size(checkpoint + BYTES * parameters)} for weights, gradients and optimizer, about "
        f"{_size(activations)} for activations",
        f"disk: {_size(checkpoint)} a checkpoint, {_size(disk)} in all, {_size(free)} free",
    ]
    if disk > free:
        lines.append("warning: the disk cannot hold the checkpoints: free some space, or set another output_dir")
    return [*lines, *_completions(config)]


def _completions(config: object) -> list[str]:
    if not isinstance(config, RlhfConfig):
        return []
    settings = config.policy_gradient
    drawn = settings.steps * settings.completions_per_step
    return [
        f"policy gradient: {settings.steps:,} steps, {drawn:,} completions, up to "
        f"{drawn * config.task.max_new_tokens:,} tokens drawn"
    ]


def _free(folder: Path) -> int:
    """Bytes that are free where `folder` lies, or will lie."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _size(number: float) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"
