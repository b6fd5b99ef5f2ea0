"""The figures of `rl-exp bench`: throughput against context, the roofline with its points, bytes per device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.reports.captions import n_of
from experiments.reports.context_panels import context_panels, label_panels, scale_panel
from experiments.reports.style import BLACK, GREY, LINES, MECHANISM_COLOURS, figure_style, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = dict[str, Any]

MARKERS = ("o", "s", "^", "D", "v", "P")
FILLS = {"fp32": "full", "bf16": "none", "fp16": "left"}  # of markers, by storage
SERVING_LATENCIES = {
    "first_token": "to the first token",
    "between_tokens": "between tokens",
    "end_to_end": "to the last token",
}


def draw_throughput(rows: Sequence[Row], system: str, directory: Path) -> Path | None:
    """Tokens per second against context, a panel per setting; line styles tell the values of column `system` apart.

    None where nothing was measured.
    """
    from matplotlib.ticker import LogLocator

    # Speculation, beside its own plain decoding, has prompts of its own.
    rows = [row for row in rows if row["status"] == "measured" and "plain_tokens_per_second" not in row]
    if not rows:
        return None
    panel_settings = [name for name in ("model", "batch", "query_length", "dtype") if _varies(rows, name)]
    panels = list(dict.fromkeys(tuple(row.get(name) for name in panel_settings) for row in rows))
    systems = list(dict.fromkeys(row[system] for row in rows))
    with figure_style():
        figure, axes = context_panels(len(panels))
        for axis, panel in zip(axes.flat, panels, strict=False):
            for row_set in _lines(rows, panel_settings, panel, system):
                first = row_set[0]
                axis.plot(
                    [row["context"] for row in row_set],
                    [row["tokens_per_second"] for row in row_set],
                    LINES[systems.index(first[system]) % len(LINES)],
                    marker=MARKERS[systems.index(first[system]) % len(MARKERS)],
                    markersize=4,
                    color=_colour(first),
                    alpha=1.0 if first[system] == systems[0] else 0.6,
                )
            scale_panel(axis, (row["context"] for row in rows))
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
            axis.set_title(_title(panel_settings, panel))
        label_panels(axes, len(panels), "tokens per second")
        _legend(figure, rows, systems)
        return save_figure(figure, directory / "throughput_against_context", _repetitions(rows))


def draw_roofline(rows: Sequence[Row], directory: Path) -> Path | None:
    """Measured points under the ceilings of the run; one marker per query length, hollow for bf16, half for fp16."""
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.ticker import LogLocator, NullFormatter

    rows = [row for row in rows if row["status"] == "measured"]
    rows = [row for row in rows if row["kernel"] == rows[0]["kernel"]]
    if not rows:
        return None
    query_lengths = sorted({row["query_length"] for row in rows})
    with figure_style():
        figure, axis = plt.subplots(figsize=(6.6, 4.2))
        low, high = min(row["intensity"] for row in rows) / 2, max(row["intensity"] for row in rows) * 2
        intensities = np.geomspace(low, high, 200)
        # A processor computes in fp32 whatever is stored; a GPU has a peak for every storage.
        peaks: dict[str, float] = {}
        for row in rows:
            name = row.get("peak_name", "fp32")
            peaks[name] = max(peaks.get(name, 0.0), row["peak_flops"])
        for residence, style in (("memory", "-"), ("cache", "--")):
            rates = [row["bandwidth"] for row in rows if row["residence"] == residence]
            if rates:
                rate = float(np.median(rates))
                label = f"{'memory' if residence == 'memory' else 'cache'} {rate / 1e9:.0f} GB/s"
                limit = np.minimum(max(peaks.values()), rate * intensities) / 1e9
                axis.plot(intensities, limit, style, color=BLACK, linewidth=1.2, label=label)
        for name, peak in peaks.items():
            label = f"{name} {peak / 1e9:,.0f} GFLOP/s"
            axis.axhline(peak / 1e9, color=GREY, linewidth=0.8, linestyle=":", label=label)
        for row in rows:
            axis.plot(
                row["intensity"],
                row["gigaflops_per_second"],
                MARKERS[query_lengths.index(row["query_length"]) % len(MARKERS)],
                color=_colour(row),
                fillstyle=FILLS.get(row["dtype"], "full"),
                markersize=6 if row["residence"] == "memory" else 4,
                alpha=1.0 if row["residence"] == "memory" else 0.6,
            )
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel("arithmetic intensity (FLOP per byte)")
        axis.set_ylabel("GFLOP per second")
        axis.set_title(f"one attention layer, kernel {rows[0]['kernel']}")
        _roofline_legend(axis, rows, query_lengths)
        return save_figure(figure, directory / "roofline", _repetitions(rows))


def draw_device_bytes(devices: Sequence[Row], title: str, directory: Path) -> Path:
    """Bars: cache bytes per token, layer and device, by number of devices."""
    import matplotlib.pyplot as plt

    mechanisms = list(dict.fromkeys(row["mechanism"] for row in devices))
    sizes = sorted({row["tensor_parallel"] for row in devices})
    with figure_style():
        figure, axis = plt.subplots(figsize=(1.25 * len(mechanisms) + 2.2, 3.4))
        width = 0.8 / len(sizes)
        for number, size in enumerate(sizes):
            for place, mechanism in enumerate(mechanisms):
                value = next(
                    row["bytes"] for row in devices if (row["mechanism"], row["tensor_parallel"]) == (mechanism, size)
                )
                if value is None:
                    continue
                x = place - 0.4 + (number + 0.5) * width
                shade = 1.0 - 0.7 * number / max(1, len(sizes) - 1)
                axis.bar(x, value, width * 0.94, color=_colour({"mechanism": mechanism}), alpha=shade)
                axis.annotate(
                    f"{value:,.0f}", (x, value), ha="center", va="bottom", rotation=90, fontsize=6.5,
                    xytext=(0, 2), textcoords="offset points",
                )  # fmt: skip
        axis.set_yscale("log", base=2)
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axis.set_xticks(range(len(mechanisms)), [mechanism.upper() for mechanism in mechanisms])
        axis.grid(axis="x", visible=False)
        axis.set_axisbelow(True)
        axis.margins(y=0.2)
        axis.set_ylabel("bytes (bf16)")
        axis.set_title(f"cache bytes per token, layer and device: {', '.join(map(str, sizes))} devices, left to right")
        return save_figure(figure, directory / "bytes_per_device", title)


def draw_serving(rows: Sequence[Row], directory: Path) -> Path | None:
    """Throughput and latencies by mechanism at one cache budget."""
    import matplotlib.pyplot as plt

    rows = [row for row in rows if row["status"] == "measured"]
    if not rows:
        return None
    labels = [_serving_label(row, rows) for row in rows]
    with figure_style():
        latencies = [name for name in SERVING_LATENCIES if f"{name}_p50" in rows[0]]
        figure, axes = plt.subplots(
            1, 1 + len(latencies), figsize=(2.4 + 2.4 * len(latencies), 0.32 * len(rows) + 1.7), sharey=True
        )
        for place, row in enumerate(rows):
            axes[0].set_axisbelow(True)
            axes[0].barh(place, row["tokens_per_second"], color=_colour(row))
            for axis, name in zip(axes[1:], latencies, strict=True):
                median, last = 1e3 * row[f"{name}_p50"], 1e3 * row[f"{name}_p99"]
                axis.plot([median, last], [place, place], color=_colour(row))
                axis.plot(median, place, "o", color=_colour(row))
                axis.plot(last, place, "|", color=_colour(row), markersize=9)
        axes[0].set_yticks(range(len(rows)), labels)
        axes[0].invert_yaxis()
        axes[0].set_xlabel("tokens per second")
        for axis, name in zip(axes[1:], latencies, strict=True):
            axis.set_xlabel(f"{SERVING_LATENCIES[name]} (ms)")
            axis.set_xlim(left=0)
        note = f"n = {rows[0]['requests']} requests; latencies: from the median to the 99th percentile"
        return save_figure(figure, directory / "serving", f"{note}; {_repetitions(rows)}")


def _serving_label(row: Row, rows: Sequence[Row]) -> str:
    varying = [str(row[name]) for name in ("model", "dtype", "threads") if name in row and _varies(rows, name)]
    return " ".join([row["mechanism"].upper(), *varying])


def _lines(rows: Sequence[Row], names: Sequence[str], panel: tuple[Any, ...], system: str) -> list[list[Row]]:
    lines: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if tuple(row.get(name) for name in names) == panel:
            key = (row["mechanism"], row[system], row.get("page_size"), row.get("threads"))
            lines.setdefault(key, []).append(row)
    return [sorted(line, key=lambda row: row["context"]) for line in lines.values()]


def _legend(figure: Any, rows: Sequence[Row], systems: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    mechanisms = list(dict.fromkeys(row["mechanism"] for row in rows))
    handles = [Line2D([], [], color=_colour({"mechanism": name}), label=name.upper()) for name in mechanisms]
    if len(systems) > 1:
        handles += [
            Line2D([], [], color=GREY, linestyle=LINES[number % len(LINES)], marker=MARKERS[number % len(MARKERS)],
                   markersize=4, label=name)
            for number, name in enumerate(systems)
        ]  # fmt: skip
    figure.legend(handles=handles, loc="outside right upper")


def _roofline_legend(axis: Axes, rows: Sequence[Row], query_lengths: Sequence[int]) -> None:
    from matplotlib.lines import Line2D

    def dot(label: str, marker: str = "o", **style: Any) -> Line2D:
        return Line2D([], [], linestyle="", marker=marker, label=label, **style)

    handles, _ = axis.get_legend_handles_labels()
    mechanisms = list(dict.fromkeys(row["mechanism"] for row in rows))
    handles += [dot(name.upper(), color=_colour({"mechanism": name})) for name in mechanisms]
    if len(query_lengths) > 1:
        handles += [
            dot(f"query length {length}", MARKERS[number % len(MARKERS)], color=GREY)
            for number, length in enumerate(query_lengths)
        ]
    if _varies(rows, "dtype"):
        dtypes = dict.fromkeys(row["dtype"] for row in rows)
        handles += [dot(dtype, color=GREY, fillstyle=FILLS.get(dtype, "full")) for dtype in dtypes]
    if _varies(rows, "residence"):
        handles += [dot("in cache", color=GREY, markersize=4, alpha=0.6)]
    axis.figure.legend(handles=handles, loc="outside right upper", fontsize=8)


def _title(names: Sequence[str], values: Sequence[Any]) -> str:
    words = {"model": "{}", "batch": "batch {}", "query_length": "query length {}", "dtype": "{}"}
    return ", ".join(words[name].format(value) for name, value in zip(names, values, strict=True))


def _repetitions(rows: Sequence[Row]) -> str:
    """`median of n = 5 to 15 rounds`."""
    counts = [int(row["runs"]) for row in rows if row.get("runs")]
    return f"median of {n_of(counts, 'round')}" if counts else ""


def _varies(rows: Sequence[Row], name: str) -> bool:
    return len({row.get(name) for row in rows}) > 1


def _colour(row: Row) -> str:
    return MECHANISM_COLOURS.get(row["mechanism"].partition("-")[0], BLACK)
