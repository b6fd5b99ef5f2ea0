"""`rl-exp report figures`: the figures of runs, sweeps and published results in one folder, as PNG and SVG.

Where the numbers behind a figure are in a result's JSON (perplexity against cache, decode benchmarks), it is drawn
again, in today's style; the others are copied as the run drew them.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.reports.bench_figures import draw_device_bytes, draw_roofline, draw_serving, draw_throughput
from experiments.reports.captions import caption_of, read_captions
from experiments.reports.plan_figures import draw_plan
from experiments.reports.train_comparison import Arm, draw_perplexity_against_cache
from experiments.runs.files import read_json, write_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GalleryFigure:
    """A picture, where it comes from, and what it shows."""

    name: str  # unique in the gallery
    title: str
    place: Path  # run, sweep or published folder
    png: Path
    svg: Path | None
    caption: str


def collect_figures(places: Sequence[Path]) -> tuple[list[GalleryFigure], list[str]]:
    """Every PNG in the figure folders of these runs, sweeps and published results, and a line per file left out.

    Left out are files that are named PNG and are not, are cut off, or cannot be read.
    """
    found: list[GalleryFigure] = []
    left_out: list[str] = []
    names: set[str] = set()
    for place in dict.fromkeys(places):
        captions = read_captions(place / "figures")
        for png in _pictures(place / "figures", left_out):
            name = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{place.parent.name}-{place.name}-{png.stem}")
            while name in names:
                name += "-2"
            names.add(name)
            svg = png.with_suffix(".svg")
            title = f"{png.stem.replace('_', ' ')} ({place.parent.name}/{place.name})"
            found.append(
                GalleryFigure(name, title, place, png, svg if svg.is_file() else None, caption_of(png, captions))
            )
    return found, left_out


def _pictures(folder: Path, left_out: list[str]) -> list[Path]:
    try:
        candidates = sorted(folder.rglob("*.png"))
    except OSError as error:
        left_out.append(f"{folder} cannot be read ({error.strerror})")
        return []
    whole = []
    for path in candidates:
        reason = damage_of(path)
        if reason:
            left_out.append(f"{path} {reason}")
        else:
            whole.append(path)
    return whole


def damage_of(png: Path) -> str:
    """Why a file is no picture; empty where it is one."""
    try:
        if not png.is_file():
            return "is not a file"
        with png.open("rb") as stream:
            begin = stream.read(8)
            stream.seek(max(0, png.stat().st_size - 8))
            end = stream.read()
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if begin != b"\x89PNG\r\n\x1a\n":
        return "is not a PNG"
    return "" if end == b"IEND\xaeB`\x82" else "is cut off"


def gather_figures(places: Sequence[Path], folder: Path) -> tuple[list[GalleryFigure], list[str]]:
    """Draw again what can be drawn, copy the rest, and write captions.json.

    Returns the figures as they are in `folder`, and a line per file left out. OSError where `folder` cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    gathered = []
    # Drawn aside: an interrupted command leaves the pictures of the one before it, all of them.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".drawing-") as name:
        aside = Path(name)
        figures, left_out = collect_figures(places)
        for figure in figures:
            drawn, svg = aside / f"{figure.name}.png", aside / f"{figure.name}.svg"
            caption = _draw_again(figure, drawn)
            if caption is None:
                shutil.copyfile(figure.png, drawn)
                if figure.svg is not None:
                    shutil.copyfile(figure.svg, svg)
            final_svg = folder / svg.name if svg.is_file() else None
            gathered.append(replace(figure, png=folder / drawn.name, svg=final_svg, caption=caption or figure.caption))
        for path in aside.iterdir():
            os.replace(path, folder / path.name)
    write_json(folder / "captions.json", {figure.name: figure.caption for figure in gathered})
    return gathered, left_out


def _draw_again(figure: GalleryFigure, target: Path) -> str | None:
    """Draw the figure from the numbers beside it, and return its caption; None where that cannot be done."""
    aside = target.parent / f".{figure.name}"
    try:
        if figure.png.stem == "perplexity_against_cache":
            drawn = _perplexity(read_json(figure.place / "comparison.json"), aside)
        elif (figure.place / "results.json").is_file() and figure.png.parent == figure.place / "figures":
            drawn = _bench(figure.png.stem, read_json(figure.place / "results.json"), aside)
        else:
            return None
        if drawn is None:
            return None
        for suffix in (".png", ".svg"):
            shutil.move(drawn.with_suffix(suffix), target.with_suffix(suffix))
        return caption_of(drawn)
    except Exception:  # numbers of an older version, or damaged: the figure that the run drew is still there
        logger.info("%s was not drawn again", figure.png, exc_info=True)
        return None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _perplexity(document: Any, folder: Path) -> Path | None:
    arms = []
    for row in document["arms"]:
        if "by_seed" not in row:
            return None  # a mean alone has no bars
        seeds = list(next(iter(row["by_seed"].values())))
        summaries = [{name: values[seed] for name, values in row["by_seed"].items()} for seed in seeds]
        arms.append(Arm(row["arm"], row["mechanism"], summaries=summaries))
    sets = [key.split("/")[1] for key in arms[0].summaries[0] if key.endswith("/perplexity")]
    return draw_perplexity_against_cache(arms, sets, folder)


def _bench(stem: str, document: Any, folder: Path) -> Path | None:
    rows, mode = document["rows"], document.get("mode")
    if stem == "throughput_against_context" and mode == "attention":
        return draw_throughput(rows, "kernel", folder)
    if stem == "throughput_against_context" and mode == "generate":
        return draw_throughput(rows, "system", folder)
    if stem == "roofline":
        return draw_roofline(rows, folder)
    if stem == "bytes_per_device":
        shapes = dict.fromkeys(f"{row['query_heads']} heads of {row['head_dim']}" for row in rows if "head_dim" in row)
        return draw_device_bytes(document["bytes_per_device"], ", ".join(shapes), folder)
    if stem == "tokens_per_second_ceiling":
        return draw_plan(rows, folder)
    if stem == "serving":
        return draw_serving(rows, folder)
    return None
