"""The one interface of the decode kernels: queries, a layer of the cache and lengths in, outputs out."""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor

from ..models.shapes import AttentionShape
from .cache import STORAGE_DTYPES, CacheLayer, storage_names
from .reference import reference_attend


class DecodeKernel(StrEnum):
    """`reference` is plain torch on any device; `cpu` is compiled C++, and `reference` where it cannot be built;
    `triton` is for CUDA tensors, and for CPU tensors in Triton's interpreter (TRITON_INTERPRET=1).
    """

    reference = "reference"
    cpu = "cpu"
    triton = "triton"


def attend(
    shape: AttentionShape,
    queries: Tensor,
    layer: CacheLayer,
    lengths: Tensor,
    *,
    kernel: DecodeKernel | str = DecodeKernel.cpu,
) -> Tensor:
    """Attention of the newest tokens over everything cached: outputs [B, T, H, d_v] in fp32.

    queries [B, T, H, d_k] fp32 are the last T tokens of each sequence, already in the cache: query t of a
    sequence of length n sits at position n - T + t and sees the tokens up to itself (bottom-right causal
    alignment). A query before the first token (n < T, or an empty sequence) gives zeros. `lengths` [B]
    int32 include the new tokens.

    Queries are in decode form (d_k = `shape.absorbed_key_dim`, d_v = `shape.absorbed_value_dim`): for MLA
    and GLA [absorbed un-rotated part (latent_dim) | rotated part], for GTA [un-rotated part | rotated
    part], else the rotated head. Scores are scaled by `shape.softmax_scale`. Storage of bf16 or fp16 is widened
    to fp32 before any arithmetic (`triton` on a GPU multiplies in the storage's type: see `triton_attend`).

    Raises ValueError where shapes, types or the kernel's name do not fit together.
    """
    try:
        kernel = DecodeKernel(kernel)
    except ValueError:
        raise ValueError(f"kernel={kernel!r} is unknown: use one of {', '.join(DecodeKernel)}") from None
    _check(shape, queries, layer, lengths)
    if kernel is DecodeKernel.cpu:
        from .cpu_kernel import cpu_attend  # here, so that importing the interface costs nothing of the build

        return cpu_attend(shape, queries, layer, lengths)
    if kernel is DecodeKernel.triton:
        try:
            from .triton_attend import triton_attend  # here, so that nothing else needs triton
        except ModuleNotFoundError as error:
            if error.name != "triton":
                raise
            raise ValueError(
                "kernel=triton needs the package triton: install it (pip install 'rl-exp[triton]'), or use kernel=cpu "
                "or kernel=reference"
            ) from None

        return triton_attend(shape, queries, layer, lengths)
    return reference_attend(shape, queries, layer, lengths)


def _check(shape: AttentionShape, queries: Tensor, layer: CacheLayer, lengths: Tensor) -> None:
    batch = lengths.shape[0]
    wanted = (batch, shape.query_heads, shape.absorbed_key_dim)
    if queries.dim() != 4 or (queries.shape[0], *queries.shape[2:]) != wanted:
        raise ValueError(
            f"queries {tuple(queries.shape)} do not fit {shape.mechanism}: [{batch} sequences, query length, "
            f"{shape.query_heads} heads, {shape.absorbed_key_dim}] is needed"
        )
    if layer.storage.dim() != 3 or layer.storage.shape[2] != shape.cached_elements():
        raise ValueError(
            f"cache rows of {layer.storage.shape[-1]} elements do not fit {shape.mechanism}, "
            f"which caches {shape.cached_elements()} per token"
        )
    if layer.storage.dtype not in STORAGE_DTYPES and queries.dtype != torch.float64:
        raise ValueError(f"a cache stores {storage_names()}, not {layer.storage.dtype}")
    if layer.page_table.shape[0] != batch:
        raise ValueError(f"a page table of {layer.page_table.shape[0]} sequences does not fit {batch} lengths")
