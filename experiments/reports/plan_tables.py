"""The tables of `rl-exp bench mode=plan`: what fits and how fast at most, crossovers, published figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.console import RenderableType

from experiments.reports.tables import Column, sectioned_table

Row = dict[str, Any]

SHOWN_CONTEXTS = 3  # that fit 80 columns next to each other
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
    """A line per mechanism, a section per placement and batch; the first contexts next to each other."""
    contexts = sorted({row["context"] for row in rows})[:SHOWN_CONTEXTS]
    # A line of the table is a mechanism's rows by context; what does not depend on the context is taken from the first.
    columns: list[Column[Mapping[int, Row]]] = [
        Column("attention", lambda line: line[contexts[0]]["mechanism"].upper(), always=True),
        Column("weights\nGB", lambda line: f"{line[contexts[0]]['weight_bytes_per_device'] / 1e9:,.3g}"),
        Column("cache\nkB", lambda line: f"{line[contexts[0]]['cache_bytes_per_token'] / 1e3:,.1f}"),
    ]
    for context in contexts:
        columns.append(Column(f"{_short(context)}\nfit", _of(context, lambda row: f"{row['largest_batch']:,}")))
        columns.append(Column("tokens/s\nat most", _of(context, _ceiling)))
    varying = [name for name in WORDS if len({row[name] for row in rows}) > 1]
    sections = []
    for key in dict.fromkeys(tuple(row[name] for name in varying) for row in rows):
        section = [row for row in rows if tuple(row[name] for name in varying) == key]
        lines = [
            {row["context"]: row for row in section if row["mechanism"] == mechanism}
            for mechanism in dict.fromkeys(row["mechanism"] for row in section)
        ]
        sections.append((" · ".join(_word(name, value) for name, value in zip(varying, key, strict=True)), lines))
    same = [_word(name, rows[0][name]) for name in WORDS if name not in varying]
    return sectioned_table(
        f"plan · {' · '.join(same)}",
        columns,
        sections,
        "per device: weights, and the cache of a token in all layers; fit: the most sequences of that context; "
        "tokens/s: a ceiling for all devices together, set by memory (m), compute (c) or link (l), in "
        "brackets of the largest batch where the one of the run does not fit. Other contexts and "
        "parts of the times: results.json",
        lambda line: "skipped" if line[contexts[0]]["status"] == "skipped" else None,
    )


def _of(context: int, text: Callable[[Row], str]) -> Callable[[Mapping[int, Row]], str]:
    return lambda line: text(line[context])


def _ceiling(row: Row) -> str:
    if row["status"] == "predicted":
        return f"{row['tokens_per_second_ceiling']:,.0f} {row['bound'][0]}"
    return f"({row['tokens_per_second_ceiling_at_largest']:,.0f})" if row["largest_batch"] else "-"


def crossover_table(rows: Sequence[Row], crossovers: Sequence[Row]) -> RenderableType:
    """Per placement: where the cache weighs as much as the weights, and from where a mechanism is ahead of another."""
    keys = ("tensor_parallel", "batch", "query_length")
    names = list(dict.fromkeys(row["mechanism"] for row in rows))
    faster_from = {
        (*(row[name] for name in keys), row["first"], row["second"]): row["faster_from"] for row in crossovers
    }

    def before(other: str) -> Column[Row]:
        def crossing(row: Row) -> str | None:
            key = (*(row[name] for name in keys), row["mechanism"], other)
            if key not in faster_from:
                return None
            context = faster_from[key]
            if context is None:
                return "never"
            return "always" if context <= row["query_length"] else f"{context:,.0f}"

        return Column(f"before\n{other.upper()}", crossing)

    sections = []
    for key, group in groupby(rows, key=lambda row: tuple(row[name] for name in keys)):
        words = " · ".join(WORDS[name].format(value) for name, value in zip(keys, key, strict=True))
        sections.append((words, list({row["mechanism"]: row for row in group}.values())))
    return sectioned_table(
        "contexts at which the balance changes",
        [
            Column("", lambda row: row["mechanism"].upper()),
            Column("cache =\nweights", "cache_equals_weights_context", "{:,}", missing="skipped"),
            *(before(name) for name in names),
        ],
        sections,
        "cache = weights: from here a step reads more cache than weights; before: from here a step of the line's "
        "mechanism has the lower floor. Memory is not asked: the batch may not fit there",
    )


def published_table(rows: Sequence[Row]) -> RenderableType:
    """Published throughput and the ceiling."""
    columns: list[Column[Row]] = [
        Column("attention", lambda row: row["mechanism"].upper()),
        Column("TP x DP", lambda row: f"{row['tensor_parallel']} x {row['data_parallel']}"),
        Column("requests\nat once", "concurrency"),
        Column("of them\nfit", lambda row: "all" if row["all_fit"] else f"{row['largest_batch']:,}"),
        Column("tokens/s\npublished", "published_tokens_per_second", "{:,.0f}"),
        Column("tokens/s\nat most", lambda row: f"{row['tokens_per_second_ceiling']:,.0f} {row['bound'][0]}"),
        Column("reached", "share_of_ceiling", "{:.0%}"),
        Column("first\ntoken s", "published_first_token_seconds", "{:.1f}"),
    ]
    return sectioned_table(
        "the paper's serving figures (arXiv 2505.21487, B.6): DeepSeek-Coder-V2, fp8, 8 H100",
        columns,
        [
            (f"prompts of {prompt:,}, outputs of {output:,} tokens", list(group))
            for (prompt, output), group in groupby(rows, key=lambda row: (row["prompt"], row["output"]))
        ],
        "fit: sequences in 81% of the memory, half of their output written; first token: published median",
    )


def _word(name: str, value: Any) -> str:
    return "1 device" if (name, value) == ("devices", 1) else WORDS[name].format(value)


def _short(context: int) -> str:
    return f"{context // 1024}K" if context % 1024 == 0 else f"{context:,}"
