"""The serving figures of Hardware-Efficient Attention for Fast Decoding beside what is predicted for their settings.

Source: arXiv 2505.21487, appendix B.6: DeepSeek-Coder-V2 Base with fp8 weights on eight H100, a
live SGLang server, 1280 prompts, page 64, prefill in chunks of 8192; GLA has random weights. Only settings whose
placement is certain are here: 64K/4K (its throughputs contradict its latencies: Tables 35 and 37 have them swapped),
64K/256, 2K/2K and 256/128 are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..decoding.whole_model_cost import Experts, prompt_cost
from ..decoding.whole_model_cost import largest_batch as fitting
from ..models.shapes import AttentionMechanism, AttentionShape, ModelShape
from .device_table import DEVICES
from .plan import PlanSetting, Serving

Row = dict[str, Any]

# What SGLang gave weights and cache together on eight devices, unless told otherwise (its server_args.py in 2025).
MEMORY_SHARE = 0.81
SERVED_EXPERTS = Experts(routed=160, active=6, shared=2, dim=1536, dense_layers=1)


@dataclass(frozen=True, kw_only=True)
class PublishedServing:
    """One line of the paper's tables. Lengths in tokens: exact, or means where they were drawn uniformly."""

    mechanism: str
    tensor_parallel: int
    data_parallel: int
    concurrency: int
    prompt: int
    output: int
    tokens_per_second: float
    first_token_seconds: float | None = None  # median
    between_tokens_seconds: float | None = None  # median


def _at_8k_and_4k(
    mechanism: str, tensor_parallel: int, figures: dict[int, tuple[float, ...]]
) -> list[PublishedServing]:
    return [
        PublishedServing(
            mechanism=mechanism,
            tensor_parallel=tensor_parallel,
            data_parallel=8 // tensor_parallel,
            concurrency=concurrency,
            prompt=8192,
            output=4096,
            tokens_per_second=found[0],
            first_token_seconds=found[1] if len(found) > 1 else None,
            between_tokens_seconds=found[2] if len(found) > 1 else None,
        )
        for concurrency, found in figures.items()
    ]


PUBLISHED = (
    *_at_8k_and_4k("gla-8", 8, {16: (561, 3.74, 0.0271), 64: (1461, 11.96, 0.0382), 128: (1363, 223.1, 0.0460)}),
    *_at_8k_and_4k("mla", 8, {16: (481, 3.98, 0.0318), 64: (859, 192.7, 0.0430), 128: (859, 392.1, 0.0430)}),
    *_at_8k_and_4k("gla-4", 4, {16: (553,), 64: (1543,), 128: (2358,)}),
    *_at_8k_and_4k("mla", 4, {16: (482,), 64: (1276,), 128: (1342,)}),
    *_at_8k_and_4k("gla-2", 2, {16: (544,), 64: (1584,), 128: (2474,)}),
    *_at_8k_and_4k("mla", 2, {16: (477,), 64: (1334,), 128: (2122,)}),
    PublishedServing(
        mechanism="gla-8", tensor_parallel=8, data_parallel=1, concurrency=16, prompt=32768, output=4096,
        tokens_per_second=395, first_token_seconds=18.1, between_tokens_seconds=0.0325,
    ),
    PublishedServing(
        mechanism="mla", tensor_parallel=2, data_parallel=4, concurrency=16, prompt=32768, output=4096,
        tokens_per_second=348, first_token_seconds=36.1, between_tokens_seconds=0.0340,
    ),
    # "131K/4K": both lengths drawn uniformly up to these, so half of them in the mean
    PublishedServing(
        mechanism="gla-8", tensor_parallel=8, data_parallel=1, concurrency=4, prompt=65536, output=2048,
        tokens_per_second=101.6, first_token_seconds=6.42, between_tokens_seconds=0.0251,
    ),
    PublishedServing(
        mechanism="mla", tensor_parallel=2, data_parallel=4, concurrency=4, prompt=65536, output=2048,
        tokens_per_second=37.5, first_token_seconds=32.0, between_tokens_seconds=0.0286,
    ),
)  # fmt: skip


def served_model(mechanism: str) -> ModelShape:
    """DeepSeek-Coder-V2 with that attention: `mla`, or `gla-N` with N latent heads of 256."""
    name, _, heads = mechanism.partition("-")
    return ModelShape(
        attention=AttentionShape(
            mechanism=AttentionMechanism(name),
            hidden_size=5120,
            query_heads=128,
            head_dim=128,
            query_latent_dim=1536,
            latent_heads=int(heads or 1),
        ),
        layers=60,
        vocabulary_size=102400,
        feed_forward_dim=12288,
        tie_embeddings=False,
    )


def compare_with_published(memory_share: float = MEMORY_SHARE) -> list[Row]:
    """A row for every published figure: sequences that fit, the ceiling on tokens per second, the share reached.

    Of a request, prompt and output add up on each resource, and the busiest resource gives the ceiling; a sequence in
    the cache is taken with half of its output. Concurrency beyond what fits waits, so it does not count.
    """
    return [_compared(figure, memory_share) for figure in PUBLISHED]


def _compared(figure: PublishedServing, memory_share: float) -> Row:
    serving = Serving(
        device=DEVICES["h100"],
        weights="fp8",
        weight_bytes=1,
        cache="bf16",
        cache_bytes=2,
        devices=figure.tensor_parallel * figure.data_parallel,
        memory_share=memory_share,
        experts=SERVED_EXPERTS,
    )
    model, placement = served_model(figure.mechanism), serving.placement(figure.tensor_parallel)
    context = figure.prompt + figure.output // 2
    largest = fitting(model, context, placement, serving.memory, experts=SERVED_EXPERTS)
    batch = min(figure.concurrency, largest)
    setting = PlanSetting(
        mechanism=figure.mechanism,
        tensor_parallel=figure.tensor_parallel,
        context=context,
        batch=batch,
        query_length=1,
    )
    step = serving.seconds(serving.step(model, setting, batch=batch, context=context))
    prompt = serving.seconds(prompt_cost(model, figure.prompt, placement, experts=SERVED_EXPERTS))
    request = {part: prompt[part] / figure.data_parallel + figure.output * step[part] / batch for part in step}
    ceiling = figure.output / max(request.values())
    return {
        "mechanism": figure.mechanism,
        "tensor_parallel": figure.tensor_parallel,
        "data_parallel": figure.data_parallel,
        "concurrency": figure.concurrency,
        "prompt": figure.prompt,
        "output": figure.output,
        "largest_batch": largest,
        "all_fit": figure.concurrency <= largest,
        "step_floor_seconds": max(step.values()),
        "bound": max(request, key=lambda part: request[part]),
        "tokens_per_second_ceiling": ceiling,
        "published_tokens_per_second": figure.tokens_per_second,
        "published_first_token_seconds": figure.first_token_seconds,
        "published_between_tokens_seconds": figure.between_tokens_seconds,
        "share_of_ceiling": figure.tokens_per_second / ceiling,
    }
