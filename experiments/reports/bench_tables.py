"""The tables of `rl-exp bench`: a title for the settings that all rows share, sections for those that vary."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from rich.console import Group, RenderableType

from experiments.reports.tables import Column, sectioned_table

Row = dict[str, Any]

SETTINGS = {  # of a cell, in the order in which they are printed
    "model": "model {}",
    "context": "context {:,}",
    "batch": "batch {}",
    "query_length": "query length {}",
    "dtype": "{} storage",
    "page_size": "pages of {}",
    "threads": "{} threads",
}

ATTENTION = Column[Row]("attention", lambda row: row["mechanism"].upper(), left=True, always=True)
CACHE = Column[Row]("cache\nMB", "cache_bytes", "{:,.3g}", 1e-6, always=True)
OF_LIMIT = Column[Row]("of\nlimit", "fraction_of_limit", "{:.0%}")


def attention_table(rows: Sequence[Row]) -> RenderableType:
    """One line per mechanism and setting for the first kernel; the other kernels as multiples of its time."""
    kernels = list(dict.fromkeys(row["kernel"] for row in rows))
    columns = [
        ATTENTION,
        CACHE,
        Column[Row]("FLOP\n/byte", "intensity", "{:.1f}", always=True),
        Column[Row]("floor\nµs", lambda row: f"{digits(1e6 * row['floor_seconds'], 3)} {row['bound'][0]}"),
        Column[Row]("time\nµs", lambda row: _spread(row, "seconds", 1e6)),
        OF_LIMIT,
        Column[Row]("tokens\nper s", "tokens_per_second", "{:,.0f}"),
        Column[Row]("GB/s", "gigabytes_per_second", "{:.1f}"),
    ]
    multiples = [
        Column[Row](f"{kernel}\n/ {kernels[0]}", f"{kernel} over {kernels[0]}", always=True) for kernel in kernels[1:]
    ]
    in_one = len(multiples) == 1  # more of them make a table of their own
    sections = [(words, [_with_multiples(same, kernels) for same in _by_mechanism(s)]) for words, s in _sections(rows)]
    table = sectioned_table(
        f"one attention layer · {_same(rows)} · kernel {kernels[0]}",
        [*columns, *(multiples if in_one else [])],
        sections,
        "floor: the larger of bytes / bandwidth (m) and FLOPs / peak (c), both measured in this run; "
        "time: median ± half the interquartile range; of limit: floor / time"
        + ("; last column: that kernel's time / ours" if in_one else ""),
        _not_measured,
    )
    if len(multiples) < 2:
        return table
    names = [Column[Row](kernel, column.value) for kernel, column in zip(kernels[1:], multiples, strict=True)]
    title = f"other kernels: their time over that of {kernels[0]}"
    return Group(table, sectioned_table(title, [ATTENTION, *names], sections, "medians"))


def _by_mechanism(rows: Sequence[Row]) -> list[list[Row]]:
    return [list(same) for _, same in groupby(rows, key=lambda row: row["mechanism"])]


def _with_multiples(same: Sequence[Row], kernels: Sequence[str]) -> Row:
    """The row of the first kernel, with the other kernels' times over its own."""
    by_kernel = {row["kernel"]: row for row in same}
    first = by_kernel.get(kernels[0], same[0])
    return first | {f"{kernel} over {kernels[0]}": _multiple(by_kernel.get(kernel), first) for kernel in kernels[1:]}


def _multiple(row: Row | None, first: Row) -> str:
    if row is None:
        return ""
    if row["status"] != "measured" or first["status"] != "measured":
        return "" if row["status"] == "measured" else row["status"]
    return f"{row['seconds'] / first['seconds']:.1f}x"


def generate_table(rows: Sequence[Row]) -> RenderableType:
    """Prefill and decode of whole models; transformers on lines of its own."""
    return sectioned_table(
        f"whole model · {_same(rows)}",
        [
            ATTENTION,
            Column[Row]("system", "system", always=True),
            CACHE,
            Column[Row]("prefill\ntokens/s", "prefill_tokens_per_second", "{:,.0f}"),
            Column[Row]("step\nms", lambda row: _spread(row, "step_seconds", 1e3)),
            Column[Row]("decode\ntokens/s", "tokens_per_second", "{:,.0f}"),
            OF_LIMIT,
        ],
        _sections([row for row in rows if "speed_up" not in row]),
        "tokens/s: of the whole batch; step: median ± half the interquartile range; of limit: the time that reading "
        "all weights and the cache once takes, or the arithmetic, over the time of a step",
        _not_measured,
    )


def speculation_table(rows: Sequence[Row]) -> RenderableType:
    """Prompt lookup beside plain greedy decoding."""
    return sectioned_table(
        f"speculative decoding by prompt lookup, greedy · {_same(rows)}",
        [
            ATTENTION,
            Column[Row]("plain\ntokens/s", "plain_tokens_per_second", "{:,.0f}"),
            Column[Row]("speculative\ntokens/s", "tokens_per_second", "{:,.0f}"),
            Column[Row]("speed-up", "speed_up", "{:.2f}x"),
            Column[Row]("accepted\nper step", "accepted_length", "{:.2f}"),
            Column[Row]("accepted\nshare", "acceptance_rate", "{:.0%}"),
            Column[Row]("same\ntext", lambda row: "yes" if row["same_text"] else "NO"),
        ],
        _sections(rows),
        "prompts repeat a phrase; accepted per step: proposed tokens that were right, beside the one of every step",
        _not_measured,
    )


def serving_table(rows: Sequence[Row]) -> RenderableType:
    """Throughput and latencies at one cache budget."""

    def latency(name: str, form: str) -> Column[Row]:
        return Column(
            {"first_token": "first\ntoken ms", "between_tokens": "between\ntokens ms"}.get(name, "last\ntoken ms"),
            lambda row: " / ".join(form.format(1e3 * row[f"{name}_{share}"]) for share in ("p50", "p99")),
        )

    return sectioned_table(
        f"serving · {_same(rows)} · {rows[0]['budget_bytes'] / 1e6:,.3g} MB of cache",
        [
            ATTENTION,
            Column[Row]("budget\ntokens", "budget_tokens", "{:,}"),
            Column[Row]("together\nmost / mean", lambda row: f"{row['most_together']} / {row['mean_together']:.1f}"),
            Column[Row]("tokens\nper s", lambda row: _spread(row, "tokens_per_second", 1)),
            latency("first_token", "{:,.0f}"),
            latency("between_tokens", "{:,.1f}"),
            latency("end_to_end", "{:,.0f}"),
        ],
        _sections(rows),
        "budget: tokens that the cache of all layers can hold; together: sequences in a step; tokens: median ± half "
        "the interquartile range over rounds; latencies: median / 99th percentile",
        _not_measured,
    )


def sharded_table(rows: Sequence[Row]) -> RenderableType:
    """One layer over several ranks, beside the layer on one."""
    return sectioned_table(
        f"one attention layer over {rows[0]['tensor_parallel']} ranks · {_same(rows)}",
        [
            ATTENTION,
            Column[Row]("kernel", "kernel"),
            Column[Row]("bytes\nalone", "whole_bytes", "{:,.0f}"),
            Column[Row]("bytes\nper rank", "bytes", "{:,.0f}"),
            Column[Row]("copies", "duplication_factor"),
            Column[Row]("differs\nby", "largest_difference", "{:.0e}"),
            Column[Row]("µs a\nstep", "seconds", "{:,.0f}", 1e6),
        ],
        _sections(rows),
        "bytes per token, as predicted; differs by: the most from the outputs of the layer on one rank; step: the "
        "median of the slowest rank",
    )


def device_table(devices: Sequence[Row], title: str) -> RenderableType:
    """Cache bytes per token and layer on each device; how often the whole is stored in brackets."""
    sizes = list(dict.fromkeys(row["tensor_parallel"] for row in devices))
    lines = [{"mechanism": same[0]["mechanism"]} | _bytes_by_size(same) for same in _by_mechanism(devices)]
    return sectioned_table(
        f"cache bytes per token, layer and device, bf16 · {title}",
        [ATTENTION, *(Column[Row]("1 device" if size == 1 else f"{size} devices", f"on {size}") for size in sizes)],
        [("", lines)],
        "counted on allocated caches; in brackets: bytes of all devices together over those of one device alone",
    )


def _bytes_by_size(rows: Sequence[Row]) -> Row:
    return {f"on {row['tensor_parallel']}": _bytes(row) for row in rows}


def _bytes(row: Row) -> str:
    if row["bytes"] is None:
        return "no split"
    return f"{row['bytes']:,.0f}" + ("" if row["stored"] == 1 else f" ({row['stored']:.3g})")


def failures(rows: Iterable[Row]) -> list[str]:
    """A line for every cell that was not measured."""
    lines = []
    for row in rows:
        if row["status"] != "measured":
            names = ("kernel", "system", *SETTINGS)
            settings = " ".join(f"{name}={row[name]}" for name in names if row.get(name) is not None)
            lines.append(f"{row['mechanism']} {settings}: {row['status']}, {row['reason']}")
    return lines


def _sections(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Rows by the settings that vary, in the order of the grid; the order within a section is kept."""
    varying = [name for name in SETTINGS if len({row.get(name) for row in rows}) > 1]

    def settings(row: Row) -> tuple[Any, ...]:
        return tuple(row.get(name) for name in varying)

    order = {key: number for number, key in enumerate(dict.fromkeys(map(settings, rows)))}
    parts = []
    for key, group in groupby(sorted(rows, key=lambda row: order[settings(row)]), key=settings):
        same = list(group)
        words = [_setting(name, value) for name, value in zip(varying, key, strict=True)]
        residences = list(dict.fromkeys(row["residence"] for row in same if row.get("residence")))
        if residences:
            words.append("from " + " or ".join(residences))
        parts.append((" · ".join(word for word in words if word), same))
    return parts


def _same(rows: Sequence[Row]) -> str:
    words = [
        _setting(name, rows[0][name])
        for name in SETTINGS
        if rows[0].get(name) is not None and len({row.get(name) for row in rows}) == 1
    ]
    return " · ".join(words)


def _setting(name: str, value: Any) -> str:
    if value is None:
        return "contiguous" if name == "page_size" else ""
    if name == "threads" and value == 1:
        return "1 thread"
    return SETTINGS[name].format(value)


def _not_measured(row: Row) -> str | None:
    return None if row["status"] == "measured" else str(row["status"])


def _spread(row: Row, name: str, scale: float) -> str:
    if row.get("runs") == 1:
        return digits(scale * row[name], 3)  # one run has no spread
    half = (row[f"{name}_q3"] - row[f"{name}_q1"]) / 2
    return f"{digits(scale * row[name], 3)} ±{digits(scale * half, 1)}"


def digits(value: float, count: int) -> str:
    """`count` significant digits, without an exponent: 8,380."""
    return f"{float(f'{value:.{count}g}'):,.10g}"
