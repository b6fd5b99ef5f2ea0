"""The tables of `rl-exp bench`: a title for the settings that all rows share, sections for those that vary."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

Row = dict[str, Any]
Sections = list[tuple[str, list[list[str]]]]  # words for the settings of the section, and its lines of cells

SETTINGS = {  # of a cell, in the order in which they are said
    "model": "model {}",
    "context": "context {:,}",
    "batch": "batch {}",
    "query_length": "query length {}",
    "dtype": "{} storage",
    "page_size": "pages of {}",
    "threads": "{} threads",
}


def attention_table(rows: Sequence[Row]) -> RenderableType:
    """One line per mechanism and setting for the first kernel; the other kernels as multiples of its time."""
    kernels = list(dict.fromkeys(row["kernel"] for row in rows))
    headings = ["attention", "cache\nMB", "FLOP\n/byte", "floor\nµs", "time\nµs", "of\nlimit", "tokens\nper s", "GB/s"]
    multiples = [f"{kernel}\n/ {kernels[0]}" for kernel in kernels[1:]]
    beside = len(multiples) == 1  # more of them make a table of their own
    sections: Sections = []
    others: Sections = []
    for words, section in _sections(rows):
        sections.append((words, []))
        others.append((words, []))
        for _, same in groupby(section, key=lambda row: row["mechanism"]):
            by_kernel = {row["kernel"]: row for row in same}
            first = by_kernel.get(kernels[0], next(iter(by_kernel.values())))
            cells = [_multiple(by_kernel.get(kernel), first) for kernel in kernels[1:]]
            sections[-1][1].append([first["mechanism"].upper(), *_attention_cells(first), *(cells if beside else [])])
            others[-1][1].append([first["mechanism"].upper(), *cells])
    table = sectioned(
        f"one attention layer · {_same(rows)} · kernel {kernels[0]}",
        [*headings, *multiples] if beside else headings,
        sections,
        "floor: the larger of bytes / bandwidth (m) and FLOPs / peak (c), both measured in this run; "
        "time: median ± half the interquartile range; of limit: floor / time"
        + ("; last column: that kernel's time / ours" if beside else ""),
    )
    if len(multiples) < 2:
        return table
    against = sectioned(
        f"other kernels: their time over that of {kernels[0]}", ["attention", *kernels[1:]], others, "medians"
    )
    return Group(table, against)


def _attention_cells(row: Row) -> list[str]:
    cells = [_number(row, "cache_bytes", 1e-6, ",.3g"), _number(row, "intensity", 1, ".1f")]
    if row["status"] != "measured":
        return [*cells, row["status"], "", "", "", ""]
    return [
        *cells,
        f"{_digits(1e6 * row['floor_seconds'], 3)} {row['bound'][0]}",
        _spread(row, "seconds", 1e6),
        f"{row['fraction_of_limit']:.0%}",
        f"{row['tokens_per_second']:,.0f}",
        f"{row['gigabytes_per_second']:.1f}",
    ]


def _multiple(row: Row | None, first: Row) -> str:
    if row is None:
        return ""
    if row["status"] != "measured" or first["status"] != "measured":
        return "" if row["status"] == "measured" else row["status"]
    return f"{row['seconds'] / first['seconds']:.1f}x"


def generate_table(rows: Sequence[Row]) -> RenderableType:
    """Prefill and decode of whole models; transformers on lines of its own."""
    headings = [
        *("attention", "system", "cache\nMB", "prefill\ntokens/s"),
        *("step\nms", "decode\ntokens/s", "of\nlimit"),
    ]
    sections: Sections = []
    for words, section in _sections([row for row in rows if "speed_up" not in row]):
        lines = []
        for row in section:
            cells = [row["mechanism"].upper(), row["system"]]
            if row["status"] == "measured":
                cells += [
                    _number(row, "cache_bytes", 1e-6, ",.3g"),
                    f"{row['prefill_tokens_per_second']:,.0f}",
                    _spread(row, "step_seconds", 1e3),
                    f"{row['tokens_per_second']:,.0f}",
                    f"{row['fraction_of_limit']:.0%}",
                ]
            lines.append([*cells, *([] if row["status"] == "measured" else ["", row["status"], "", "", ""])])
        sections.append((words, lines))
    return sectioned(
        f"whole model · {_same(rows)}",
        headings,
        sections,
        "tokens/s: of the whole batch; step: median ± half the interquartile range; of limit: the time that reading "
        "all weights and the cache once takes, or the arithmetic, over the time of a step",
    )


def speculation_table(rows: Sequence[Row]) -> RenderableType:
    """Prompt lookup beside plain greedy decoding."""
    headings = [
        *("attention", "plain\ntokens/s", "speculative\ntokens/s", "speed-up"),
        *("accepted\nper step", "accepted\nshare", "same\ntext"),
    ]
    sections: Sections = []
    for words, section in _sections(rows):
        lines = []
        for row in section:
            if row["status"] != "measured":
                lines.append([row["mechanism"].upper(), row["status"], "", "", "", "", ""])
                continue
            lines.append(
                [
                    row["mechanism"].upper(),
                    f"{row['plain_tokens_per_second']:,.0f}",
                    f"{row['tokens_per_second']:,.0f}",
                    f"{row['speed_up']:.2f}x",
                    f"{row['accepted_length']:.2f}",
                    f"{row['acceptance_rate']:.0%}",
                    "yes" if row["same_text"] else "NO",
                ]
            )
        sections.append((words, lines))
    return sectioned(
        f"speculative decoding by prompt lookup, greedy · {_same(rows)}",
        headings,
        sections,
        "prompts repeat a phrase; accepted per step: proposed tokens that were right, beside the one of every step",
    )


def serving_table(rows: Sequence[Row]) -> RenderableType:
    """Throughput and latencies at one cache budget."""
    headings = [
        *("attention", "budget\ntokens", "together\nmost / mean", "tokens\nper s"),
        *("first\ntoken ms", "between\ntokens ms", "last\ntoken ms"),
    ]
    sections: Sections = []
    for words, section in _sections(rows):
        lines = []
        for row in section:
            if row["status"] != "measured":
                lines.append([row["mechanism"].upper(), row["status"], "", "", "", "", ""])
                continue
            lines.append(
                [
                    row["mechanism"].upper(),
                    f"{row['budget_tokens']:,}",
                    f"{row['most_together']} / {row['mean_together']:.1f}",
                    _spread(row, "tokens_per_second", 1),
                    f"{1e3 * row['first_token_p50']:,.0f} / {1e3 * row['first_token_p99']:,.0f}",
                    f"{1e3 * row['between_tokens_p50']:,.1f} / {1e3 * row['between_tokens_p99']:,.1f}",
                    f"{1e3 * row['end_to_end_p50']:,.0f} / {1e3 * row['end_to_end_p99']:,.0f}",
                ]
            )
        sections.append((words, lines))
    return sectioned(
        f"serving · {_same(rows)} · {rows[0]['budget_bytes'] / 1e6:,.3g} MB of cache",
        headings,
        sections,
        "budget: tokens that the cache of all layers can hold; together: sequences in a step; tokens: median ± half "
        "the interquartile range over rounds; latencies: median / 99th percentile",
    )


def device_table(devices: Sequence[Row], title: str) -> RenderableType:
    """Cache bytes per token and layer on each device; how often the whole is stored in brackets."""
    sizes = list(dict.fromkeys(row["tensor_parallel"] for row in devices))
    lines = []
    for mechanism, group in groupby(devices, key=lambda row: row["mechanism"]):
        cells = [mechanism.upper()]
        for row in group:
            if row["bytes"] is None:
                cells.append("no split")
            else:
                cells.append(f"{row['bytes']:,.0f}" + ("" if row["stored"] == 1 else f" ({row['stored']:.3g})"))
        lines.append(cells)
    return sectioned(
        f"cache bytes per token, layer and device, bf16 · {title}",
        ["attention", *("1 device" if size == 1 else f"{size} devices" for size in sizes)],
        [("", lines)],
        "counted on allocated caches; in brackets: bytes of all devices together over those of one device alone",
    )


def claims_table(claims: Sequence[Row]) -> RenderableType:
    """The paper's figures beside this machine's."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_lines=False)
    table.add_column("claim", ratio=6)
    table.add_column("paper", ratio=4)
    table.add_column("here", ratio=3)
    table.add_column("why", ratio=7)
    for number, claim in enumerate(claims):
        if number:
            table.add_section()
        table.add_row(claim["claim"], claim["paper"], claim["here"], claim["note"])
    return Group(Text("the paper's claims, as this machine shows them", style="bold"), table)


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


def sectioned(title: str, headings: Sequence[str], sections: Sections, caption: str) -> RenderableType:
    """Tables of the same column widths under each other, the headings above the first."""
    widths = [
        max(
            *(len(part) for part in heading.split("\n")),
            *(len(line[column]) for _, lines in sections for line in lines),
        )
        for column, heading in enumerate(headings)
    ]

    def table(lines: Sequence[Sequence[str]], *, heading: bool) -> Table:
        made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=heading, show_edge=False, padding=(0, 1, 0, 0))
        for column, (text, width) in enumerate(zip(headings, widths, strict=True)):
            made.add_column(text, min_width=width, no_wrap=True, justify="left" if column == 0 else "right")
        for line in lines:
            made.add_row(*line)
        return made

    parts: list[RenderableType] = [Text(title, style="bold"), table([], heading=True)]
    for words, lines in sections:
        if words:
            parts.append(Text(words, style="cyan"))
        parts.append(table(lines, heading=False))
    parts.append(Text(caption, style="dim"))
    parts.append(Text(""))
    return Group(*parts)


def _spread(row: Row, name: str, scale: float) -> str:
    if row.get("runs") == 1:
        return _digits(scale * row[name], 3)  # once is no spread
    half = (row[f"{name}_q3"] - row[f"{name}_q1"]) / 2
    return f"{_digits(scale * row[name], 3)} ±{_digits(scale * half, 1)}"


def _digits(value: float, digits: int) -> str:
    """So many significant digits, without an exponent: 8,380."""
    return f"{float(f'{value:.{digits}g}'):,.10g}"


def _number(row: Row, name: str, scale: float, form: str) -> str:
    return "" if row.get(name) is None else format(scale * row[name], form)
