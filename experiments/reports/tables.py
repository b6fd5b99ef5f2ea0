"""Tables as lists of columns, for a terminal (rich) and for documents (Markdown).

A column has a heading and says how a row becomes its cell. Rows are mappings, or any objects of one type whose columns
have functions as values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

RowType = TypeVar("RowType")


@dataclass(frozen=True)
class Column(Generic[RowType]):
    """One column. Cells that are strings may hold rich's markup: escape what comes from a run directory."""

    heading: str  # its lines separated by \n
    value: str | Callable[[RowType], Any]  # a key of the row, or a function of it
    form: str = "{}"  # of a value that is not a string
    scale: float = 1.0  # from the unit of the value to that of the heading
    missing: str = ""  # where the value is None
    left: bool = False
    always: bool = False  # shown for rows that were not measured too
    fold: bool = False  # break long cells anywhere
    no_wrap: bool = False
    min_width: int | None = None
    ratio: int | None = None  # share of the free width

    def cell(self, row: Any) -> RenderableType:
        """The cell of `row`."""
        value = self.value(row) if callable(self.value) else row.get(self.value)
        if value is None:
            return self.missing
        if isinstance(value, str | Text):
            return value
        return self.form.format(value if self.scale == 1 else self.scale * value)


def name_column(heading: str, names: Iterable[str], name: Callable[[RowType], str]) -> Column[RowType]:
    """Names of any length: broken where they do not fit, but not below twenty characters."""
    width = min(max(map(len, names)), 20)
    return Column(heading, lambda row: escape(name(row)), left=True, fold=True, min_width=width)


def cells(columns: Sequence[Column[RowType]], row: RowType, instead: str | None = None) -> list[RenderableType]:
    """A line. `instead` of the measurements: it stands in the first column that is not `always` shown."""
    if instead is None:
        return [column.cell(row) for column in columns]
    first = next(place for place, column in enumerate(columns) if not column.always)
    return [
        column.cell(row) if column.always else instead if place == first else "" for place, column in enumerate(columns)
    ]


def rich_table(
    columns: Sequence[Column[RowType]],
    rows: Iterable[RowType],
    *,
    title: str = "",
    caption: str = "",
    ruled: bool = False,
    gap: int = 1,
) -> Table:
    """A table for the terminal: `ruled` separates its rows, `gap` is the space after each column."""
    table = Table(
        box=box.SIMPLE_HEAD,
        title=escape(title) or None,
        caption=caption or None,
        title_justify="left",
        caption_justify="left",
        padding=(0, gap, 0, 0),
        show_lines=ruled,
    )
    for column in columns:
        table.add_column(
            column.heading,
            justify="left" if column.left else "right",
            overflow="fold" if column.fold else "ellipsis",
            no_wrap=column.no_wrap,
            min_width=column.min_width,
            ratio=column.ratio,
        )
    for row in rows:
        table.add_row(*cells(columns, row))
    return table


def sectioned_table(
    title: str,
    columns: Sequence[Column[RowType]],
    sections: Sequence[tuple[str, Sequence[RowType]]],
    caption: str,
    instead: Callable[[RowType], str | None] = lambda row: None,
) -> RenderableType:
    """Tables of the same column widths under each other, each below its own words, the headings above the first.

    `instead` gives what stands in a row that was not measured.
    """
    lines = [(words, [cells(columns, row, instead(row)) for row in rows]) for words, rows in sections]
    widths = [
        max(
            *(len(part) for part in column.heading.split("\n")),
            *(len(str(line[place])) for _, section in lines for line in section),
        )
        for place, column in enumerate(columns)
    ]

    def table(section: Sequence[Sequence[RenderableType]], *, heading: bool) -> Table:
        made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=heading, show_edge=False, padding=(0, 1, 0, 0))
        for place, (column, width) in enumerate(zip(columns, widths, strict=True)):
            made.add_column(column.heading, min_width=width, no_wrap=True, justify="right" if place else "left")
        for line in section:
            made.add_row(*line)
        return made

    parts: list[RenderableType] = [Text(title, style="bold"), table([], heading=True)]
    for words, section in lines:
        if words:
            parts.append(Text(words, style="cyan"))
        parts.append(table(section, heading=False))
    return Group(*parts, Text(caption, style="dim"), Text(""))


def markdown_table(columns: Sequence[Column[RowType]], rows: Iterable[RowType]) -> str:
    """A table of Markdown; cells are plain text."""
    lines = [[column.heading.replace("\n", " ") for column in columns], ["---"] * len(columns)]
    lines += [[str(cell) for cell in cells(columns, row)] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
