"""The tables of `rl-exp bench mode=plan`: what fits and how fast at most, crossovers, published figures."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from rich.console import RenderableType

from experiments.reports.bench_tables import Sections, sectioned

Row = dict[str, Any]

SHOWN_CONTEXTS = 3  # that fit 80 columns beside each other
WORDS = {
    "model": "model {}",
    "device": "{}",
    "devices": "{} devices",
    "weights": "weights {}",
    "cache": "cache {}",
    "tensor_parallel": "tensor parallel {}",
    "data_parallel": "data parallel {}",
    "batch": "batch {}",
    "query_length": "query length {}",
}


def plan_table(rows: Sequence[Row]) -> RenderableType:
    """A line per mechanism, a section per placement and batch; the first contexts beside each other."""
    contexts = sorted({row["context"] for row in rows})[:SHOWN_CONTEXTS]
    headings = ["attention", "weights\nGB", "cache\nkB"]
    for context in contexts:
        headings += [f"{_short(context)}\nfit", "tokens/s\nat most"]
    same = {name for name in WORDS if len({row[name] for row in rows}) == 1}
    varying = [name for name in WORDS if name not in same]
    sections: Sections = []
    for key in dict.fromkeys(tuple(row[name] for name in varying) for row in rows):
        section = [row for row in rows if tuple(row[name] for name in varying) == key]
        lines = []
        for mechanism in dict.fromkeys(row["mechanism"] for row in section):
            cells = {row["context"]: row for row in section if row["mechanism"] == mechanism}
            lines.append(_plan_line(mechanism, [cells[context] for context in contexts]))
        words = " · ".join(_word(name, value) for name, value in zip(varying, key, strict=True))
        sections.append((words, lines))
    said = [_word(name, rows[0][name]) for name in WORDS if name in same]
    return sectioned(
        f"plan · {' · '.join(said)}",
        headings,
        sections,
        "per device: weights, and the cache of a token in all layers; fit: the most sequences of that context; "
        "tokens/s: a ceiling for all devices together, set by memory (m), compute (c) or link (l), in "
        "brackets of the largest batch where the one of the run does not fit. Other contexts and "
        "parts of the times: results.json",
    )


def _plan_line(mechanism: str, cells: Sequence[Row]) -> list[str]:
    first = cells[0]
    if first["status"] == "skipped":
        return [mechanism.upper(), "skipped", *[""] * (1 + 2 * len(cells))]
    line = [
        mechanism.upper(),
        f"{first['weight_bytes_per_device'] / 1e9:,.3g}",
        f"{first['cache_bytes_per_token'] / 1e3:,.1f}",
    ]
    for row in cells:
        line.append(f"{row['largest_batch']:,}")
        if row["status"] == "predicted":
            line.append(f"{row['tokens_per_second_ceiling']:,.0f} {row['bound'][0]}")
        else:
            line.append(f"({row['tokens_per_second_ceiling_at_largest']:,.0f})" if row["largest_batch"] else "-")
    return line


def crossover_table(rows: Sequence[Row], crossovers: Sequence[Row]) -> RenderableType:
    """Per placement: where the cache weighs as much as the weights, and from where a mechanism is ahead of another."""
    keys = ("tensor_parallel", "batch", "query_length")
    names = list(dict.fromkeys(row["mechanism"] for row in rows))
    found = {(*(row[name] for name in keys), row["first"], row["second"]): row["faster_from"] for row in crossovers}
    sections: Sections = []
    for key, group in groupby(rows, key=lambda row: tuple(row[name] for name in keys)):
        equal = {row["mechanism"]: row.get("cache_equals_weights_context") for row in group}
        lines = [
            [
                name.upper(),
                "skipped" if context is None else f"{context:,}",
                *(_crossing(found, (*key, name, other)) for other in names),
            ]
            for name, context in equal.items()
        ]
        words = " · ".join(WORDS[name].format(value) for name, value in zip(keys, key, strict=True))
        sections.append((words, lines))
    return sectioned(
        "contexts at which the balance changes",
        ["", "cache =\nweights", *(f"before\n{name.upper()}" for name in names)],
        sections,
        "cache = weights: from here a step reads more cache than weights; before: from here a step of the line's "
        "mechanism has the lower floor. Memory is not asked: the batch may not fit there",
    )


def _crossing(found: dict[tuple[Any, ...], float | None], key: tuple[Any, ...]) -> str:
    if key not in found:
        return ""
    context, shortest = found[key], key[2]
    if context is None:
        return "never"
    return "always" if context <= shortest else f"{context:,.0f}"


def published_table(rows: Sequence[Row]) -> RenderableType:
    """Published throughput beside the ceiling."""
    headings = ["attention", "TP x DP", "requests\nat once", "of them\nfit", "tokens/s\npublished", "tokens/s\nat most"]
    sections: Sections = []
    for key, group in groupby(rows, key=lambda row: (row["prompt"], row["output"])):
        lines = [
            [
                row["mechanism"].upper(),
                f"{row['tensor_parallel']} x {row['data_parallel']}",
                str(row["concurrency"]),
                "all" if row["all_fit"] else f"{row['largest_batch']:,}",
                f"{row['published_tokens_per_second']:,.0f}",
                f"{row['tokens_per_second_ceiling']:,.0f} {row['bound'][0]}",
                f"{row['share_of_ceiling']:.0%}",
                "" if row["published_first_token_seconds"] is None else f"{row['published_first_token_seconds']:.1f}",
            ]
            for row in group
        ]
        sections.append((f"prompts of {key[0]:,}, outputs of {key[1]:,} tokens", lines))
    return sectioned(
        "the paper's serving figures (arXiv 2505.21487, B.6): DeepSeek-Coder-V2, fp8, 8 H100",
        [*headings, "reached", "first\ntoken s"],
        sections,
        "fit: sequences in 81% of the memory, half of their output written; first token: published median",
    )


def _word(name: str, value: Any) -> str:
    return "1 device" if (name, value) == ("devices", 1) else WORDS[name].format(value)


def _short(context: int) -> str:
    return f"{context // 1024}K" if context % 1024 == 0 else f"{context:,}"
