"""Parity of the Triton kernels on a GPU at real sizes, against plain torch in fp64.

Legend: B sequences, T query length, H query heads, G cached heads, Q query heads of a group, L cached tokens, K key
dim, V value dim.

Caches are as hostile as a real one can be: pages in random order, rows and pages that are not in use hold NaN, unused
page-table entries are huge. Queries are numbers that the storage's type holds exactly, as those of a model in that type
are, so that what is left is the kernel's own rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..decoding.attention import DecodeKernel, attend
from ..decoding.cache import CacheLayer
from ..decoding.reference import cached_rows, keys_and_values
from ..models.shapes import AttentionMechanism, AttentionShape

# The largest relative error of any query row: |output - reference| / |reference|, Euclidean norms over V
TOLERANCE = {torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float32: 1e-4}
LENGTHS = (8191, 0, 1, 2, 63, 64, 65, 1000, 4097)
UNUSED_ENTRY = 2**31 - 1
PAPER_QUERY_HEADS = 128


@dataclass(frozen=True, kw_only=True)
class ParityCase:
    """One comparison; `page_size` None is a contiguous cache."""

    name: str
    shape: AttentionShape
    query_length: int
    page_size: int | None
    dtype: torch.dtype
    lengths: tuple[int, ...] = LENGTHS

    def labels(self) -> dict[str, Any]:
        """The columns that say which case a row is."""
        return {
            "mechanism": self.name,
            "query_heads": self.shape.query_heads,
            "head_dim": self.shape.head_dim,
            "query_length": self.query_length,
            "page_size": self.page_size,
            "dtype": str(self.dtype).removeprefix("torch."),
        }


@functools.cache
def paper_shapes() -> dict[str, AttentionShape]:
    """The layers of the paper's kernel benchmarks: 128 query heads (section 5.3), with GTA and GQA beside them."""
    cached_heads: dict[str, dict[str, int]] = {
        "mla": {},
        "gla-2": {"latent_heads": 2},
        "gta-8": {"tied_heads": 8},
        "gqa-8": {"key_value_heads": 8},
    }
    return {name: layer(name, PAPER_QUERY_HEADS, 128, **heads) for name, heads in cached_heads.items()}


def layer(name: str, query_heads: int, head_dim: int, **fields: int) -> AttentionShape:
    """The shape of the mechanism whose name `name` begins with."""
    return AttentionShape(
        mechanism=AttentionMechanism(name.partition("-")[0]),
        hidden_size=query_heads * head_dim,
        query_heads=query_heads,
        head_dim=head_dim,
        **fields,  # type: ignore[arg-type]
    )


def parity_cases() -> list[ParityCase]:
    """Every mechanism, query lengths 1, 2 and 4, page sizes 1, 16, 64 and none, every type, and shapes that are odd."""
    bf16, fp16, fp32 = torch.bfloat16, torch.float16, torch.float32
    settings = [(1, 64, bf16), (2, 64, bf16), (1, 1, bf16), (2, 1, bf16), (1, None, bf16), (4, 16, bf16)]
    settings += [(2, 16, fp32), (2, 64, fp16)]
    cases = [
        ParityCase(name=name, shape=shape, query_length=query_length, page_size=page_size, dtype=dtype)
        for query_length, page_size, dtype in settings
        for name, shape in paper_shapes().items()
    ]
    odd_shapes = {
        "mha": layer("mha", 16, 64),
        "mqa": layer("mqa", 12, 80),
        "tied_key_value": layer("tied_key_value", 16, 64, key_value_heads=4),
        "gqa-4": layer("gqa", 12, 96, key_value_heads=4),
        "gta-4": layer("gta", 12, 96, tied_heads=4),
        "gla-2": layer("gla", 12, 96, latent_heads=2),
    }
    cases += [
        ParityCase(name=name, shape=shape, query_length=3, page_size=7, dtype=bf16)
        for name, shape in odd_shapes.items()
    ]
    return cases


def hostile_cache(
    shape: AttentionShape,
    lengths: Sequence[int],
    *,
    page_size: int | None,
    dtype: torch.dtype,
    device: torch.device,
    seed: int = 0,
) -> CacheLayer:
    """Random rows of unit variance for sequences of these lengths, on scrambled pages in a storage full of NaN."""
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same cache on every device
    size = max([*lengths, 1]) if page_size is None else page_size
    pages_of = [-(-length // size) for length in lengths]
    spare_pages = 3
    order = torch.randperm(sum(pages_of) + spare_pages, generator=generator)
    storage = torch.full((len(order), size, shape.cached_elements()), torch.nan, dtype=dtype, device=device)
    width = max([*pages_of, 1]) + (0 if page_size is None else 2)
    page_table = torch.full((len(lengths), width), UNUSED_ENTRY, dtype=torch.int32)
    taken = 0
    for sequence, (length, pages) in enumerate(zip(lengths, pages_of, strict=True)):
        page_table[sequence, :pages] = order[taken : taken + pages].int()
        taken += pages
        tokens = torch.arange(length)
        slots = page_table[sequence, tokens // size].long() * size + tokens % size
        rows = torch.randn(length, shape.cached_elements(), generator=generator).to(device, dtype)
        storage.view(-1, storage.shape[-1])[slots.to(device)] = rows
    return CacheLayer(storage, page_table.to(device))


def random_queries(
    shape: AttentionShape, batch: int, query_length: int, dtype: torch.dtype, device: torch.device, seed: int = 0
) -> Tensor:
    """[B, T, H, K] in fp32, of numbers that `dtype` holds exactly."""
    generator = torch.Generator(device).manual_seed(seed)
    size = (batch, query_length, shape.query_heads, shape.absorbed_key_dim)
    return torch.randn(size, generator=generator, device=device).to(dtype).float()


def grouped_reference(shape: AttentionShape, queries: Tensor, cache: CacheLayer, lengths: Sequence[int]) -> Tensor:
    """What `reference.reference_attend` computes in fp64, without copies of keys and values per query head."""
    batch, query_length = queries.shape[:2]
    outputs = queries.new_zeros(*queries.shape[:3], shape.absorbed_value_dim, dtype=torch.float64)
    for sequence, length in zip(range(batch), lengths, strict=True):
        if length == 0:
            continue
        keys, values = keys_and_values(shape, cached_rows(cache, sequence, length).double())  # [L, G, K], [L, G, V]
        grouped = queries[sequence].double().unflatten(1, (-1, shape.group_size))  # [T, G, Q, K]
        scores = torch.einsum("tgqk,lgk->tgql", grouped, keys) * shape.softmax_scale
        sees = torch.arange(length - query_length, length, device=queries.device)  # the last token each query sees
        visible = torch.arange(length, device=queries.device) <= sees[:, None]  # [T, L]
        weights = scores.masked_fill(~visible[:, None, None], -torch.inf).softmax(-1)
        weights = torch.where((sees >= 0)[:, None, None, None], weights, 0.0)
        outputs[sequence] = torch.einsum("tgql,lgv->tgqv", weights, values).flatten(1, 2)
    return outputs


def worst_row_error(outputs: Tensor, reference: Tensor) -> float:
    """The largest relative error of a query row; a row that must be zero has 0 or infinity. NaN becomes infinity."""
    difference = (outputs.double() - reference).norm(dim=-1)
    size = reference.norm(dim=-1)
    errors = torch.where(size > 0, difference / size, torch.where(difference == 0, 0.0, torch.inf))
    return float(errors.nan_to_num(nan=torch.inf, posinf=torch.inf).max())


def check_parity(case: ParityCase, kernel: DecodeKernel | str, device: torch.device) -> dict[str, Any]:
    """The row of one case: `status` is passed or failed."""
    cache = hostile_cache(case.shape, case.lengths, page_size=case.page_size, dtype=case.dtype, device=device)
    queries = random_queries(case.shape, len(case.lengths), case.query_length, case.dtype, device)
    lengths = torch.tensor(case.lengths, dtype=torch.int32, device=device)
    outputs = attend(case.shape, queries, cache, lengths, kernel=kernel)
    error = worst_row_error(outputs, grouped_reference(case.shape, queries, cache, case.lengths))
    passed = error <= TOLERANCE[case.dtype]
    row = case.labels() | {"worst_row_error": error, "tolerance": TOLERANCE[case.dtype]}
    return row | ({"status": "passed"} if passed else {"status": "failed", "reason": "the error exceeds the tolerance"})
