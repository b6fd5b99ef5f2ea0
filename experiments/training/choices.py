"""What a training step may choose by name. Standard library only: the configuration imports it."""

from __future__ import annotations

from enum import StrEnum


class Precision(StrEnum):
    """Arithmetic of the training step; weights and optimizer state stay fp32."""

    fp32 = "fp32"
    bf16 = "bf16"


class Distribution(StrEnum):
    """Over several processes of torchrun: `ddp`, each holds the complete model; `fsdp`, each holds a part of it."""

    ddp = "ddp"
    fsdp = "fsdp"


class OptimizerName(StrEnum):
    """`muon`: torch's Muon for the matrices of the blocks, AdamW for embeddings and norms."""

    adamw = "adamw"
    muon = "muon"
