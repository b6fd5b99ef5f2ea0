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
        "tokens/s: a ceiling for all devices together, set by memory (m), compute (c) or link (l); -: the batch "
        "does not fit. Other contexts and parts of the times: results.json",
    )


def _plan_line(mechanism: str, cells: Sequence[Row]) -> list[str]:
    first = cells[0]
    if first["status"] == "skipped":
        return [mechanism.upper(), "skipped", *[""] * (1 + 2 * len(cells))]
    line = [
        mechanism.upper(),
        f"{first['weight_bytes_per_device'] / 1e9:,.1f}",
        f"{first['cache_bytes_per_token'] / 1e3:,.1f}",
    ]
    for row in cells:
        line.append(f"{row['largest_batch']:,}")
        fits = row["status"] == "predicted"
        line.append(f"{row['tokens_per_second_ceiling']:,.0f} {row['bound'][0]}" if fits else "-")
    return line


def crossover_table(rows: Sequence[Row]) -> RenderableType:
    """Per placement: from which context the mechanism of the line has a lower floor than that of the column."""
    names = list(dict.fromkeys(row["first"] for row in rows))
    sections: Sections = []
    for key, group in groupby(rows, key=lambda row: (row["tensor_parallel"], row["batch"], row["query_length"])):
        found = {(row["first"], row["second"]): row["faster_from"] for row in group}
        firsts = dict.fromkeys(first for first, _ in found)
        lines = [[first.upper(), *(_crossing(found, first, second, key[2]) for second in names)] for first in firsts]
        sections.append((f"tensor parallel {key[0]} · batch {key[1]} · query length {key[2]}", lines))
    return sectioned(
        "context from which a step of the line's mechanism has the lower floor",
        ["", *(f"than\n{name.upper()}" for name in names)],
        sections,
        "in tokens; memory is not asked: the batch may not fit at that context",
    )


def _crossing(found: dict[tuple[str, str], float | None], first: str, second: str, shortest: int) -> str:
    if (first, second) not in found:
        return ""
    context = found[first, second]
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
