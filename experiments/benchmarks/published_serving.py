"""The serving figures of Hardware-Efficient Attention for Fast Decoding beside what is predicted for their settings.

Source: arXiv 2505.21487, appendix B.6: DeepSeek-Coder-V2 Base with fp8 weights on eight H100, a
live SGLang server, 1280 prompts, page 64, prefill in chunks of 8192; GLA has random weights. Only settings whose
placement is certain are here: 64K/4K (its throughputs contradict its latencies: Tables 35 and 37 have them swapped),
64K/256, 2K/2K and 256/128 are left out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..decoding.whole_model_cost import Experts, prompt_cost
from ..decoding.whole_model_cost import largest_batch as fitting
from ..models.shapes import AttentionMechanism, AttentionShape, ModelShape
from .device_table import DEVICES
from .plan import PlanSetting, Serving

Row = dict[str, Any]

# What SGLang gave weights and cache together on eight devices by default (its server_args.py in 2025).
MEMORY_SHARE = 0.81
SERVED_DEVICES = 8
SERVED_EXPERTS = Experts(routed=160, active=6, shared=2, dim=1536, dense_layers=1)


class PublishedServing(NamedTuple):
    """One line of the paper's tables. Lengths in tokens: exact, or means where they were drawn uniformly."""

    mechanism: str
    tensor_parallel: int  # of the eight devices; the others hold copies of the attention
    concurrency: int
    prompt: int
    output: int
    tokens_per_second: float
    first_token_seconds: float | None = None  # median
    between_tokens_seconds: float | None = None  # median


PUBLISHED = (
    PublishedServing("gla-8", 8, 16, 8192, 4096, 561, 3.74, 0.0271),
    PublishedServing("gla-8", 8, 64, 8192, 4096, 1461, 11.96, 0.0382),
    PublishedServing("gla-8", 8, 128, 8192, 4096, 1363, 223.1, 0.0460),
    PublishedServing("mla", 8, 16, 8192, 4096, 481, 3.98, 0.0318),
    PublishedServing("mla", 8, 64, 8192, 4096, 859, 192.7, 0.0430),
    PublishedServing("mla", 8, 128, 8192, 4096, 859, 392.1, 0.0430),
    PublishedServing("gla-4", 4, 16, 8192, 4096, 553),
    PublishedServing("gla-4", 4, 64, 8192, 4096, 1543),
    PublishedServing("gla-4", 4, 128, 8192, 4096, 2358),
    PublishedServing("mla", 4, 16, 8192, 4096, 482),
    PublishedServing("mla", 4, 64, 8192, 4096, 1276),
    PublishedServing("mla", 4, 128, 8192, 4096, 1342),
    PublishedServing("gla-2", 2, 16, 8192, 4096, 544),
    PublishedServing("gla-2", 2, 64, 8192, 4096, 1584),
    PublishedServing("gla-2", 2, 128, 8192, 4096, 2474),
    PublishedServing("mla", 2, 16, 8192, 4096, 477),
    PublishedServing("mla", 2, 64, 8192, 4096, 1334),
    PublishedServing("mla", 2, 128, 8192, 4096, 2122),
    PublishedServing("gla-8", 8, 16, 32768, 4096, 395, 18.1, 0.0325),
    PublishedServing("mla", 2, 16, 32768, 4096, 348, 36.1, 0.0340),
    # "131K/4K": both lengths drawn uniformly up to these, so half of them in the mean
    PublishedServing("gla-8", 8, 4, 65536, 2048, 101.6, 6.42, 0.0251),
    PublishedServing("mla", 2, 4, 65536, 2048, 37.5, 32.0, 0.0286),
)


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


def compare_with_published() -> list[Row]:
    """A row for every published figure: sequences that fit, the ceiling on tokens per second, the share reached.

    Of a request, prompt and output add up on each resource, and the busiest resource gives the ceiling; a sequence in
    the cache is taken with half of its output. Concurrency beyond what fits waits, so it does not count.
    """
    return [_compared(figure) for figure in PUBLISHED]


def _compared(figure: PublishedServing) -> Row:
    serving = Serving(
        device=DEVICES["h100"],
        weights="fp8",
        weight_bytes=1,
        cache="bf16",
        cache_bytes=2,
        devices=SERVED_DEVICES,
        memory_share=MEMORY_SHARE,
        experts=SERVED_EXPERTS,
    )
    data_parallel = SERVED_DEVICES // figure.tensor_parallel
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
    request = {part: prompt[part] / data_parallel + figure.output * step[part] / batch for part in step}
    ceiling = figure.output / max(request.values())
    return {
        "mechanism": figure.mechanism,
        "tensor_parallel": figure.tensor_parallel,
        "data_parallel": data_parallel,
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
