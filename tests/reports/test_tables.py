"""Tables of columns, for a terminal and for documents."""

from __future__ import annotations

import pytest
from rich.console import Console

from experiments.reports.tables import Column, cells, markdown_table, rich_table, sectioned_table

COLUMNS = [
    Column("name", "name", left=True, always=True),
    Column("time\nms", "seconds", "{:,.1f}", 1e3, missing="-"),
    Column("twice", lambda row: row.get("number", 0) * 2),
]


def printed(table) -> str:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_a_value_is_scaled_and_formatted_and_a_missing_one_named():
    assert cells(COLUMNS, {"name": "a", "seconds": 1.5, "number": 2}) == ["a", "1,500.0", "4"]
    assert cells(COLUMNS, {"name": "a"}) == ["a", "-", "0"]


def test_a_row_that_was_not_measured_says_why_in_the_first_measured_column():
    assert cells(COLUMNS, {"name": "a"}, "out of memory") == ["a", "out of memory", ""]


def test_columns_of_all_sections_have_one_width():
    rows = [{"name": "short", "seconds": 1.0}], [{"name": "a long name", "seconds": 1234.0}]
    text = printed(sectioned_table("title", COLUMNS, [("first", rows[0]), ("second", rows[1])], "caption"))
    lines = [line for line in text.splitlines() if line.endswith(" 0")]
    assert len(lines) == 2
    assert len({len(line) for line in lines}) == 1


def test_markdown_has_a_line_per_row_below_the_headings():
    assert markdown_table(COLUMNS, [{"name": "a", "seconds": 0.001, "number": 1}]).splitlines() == [
        "| name | time ms | twice |",
        "| --- | --- | --- |",
        "| a | 1.0 | 2 |",
    ]


@pytest.mark.parametrize("title", ["[bold]not markup", "plain"])
def test_a_title_is_text(title):
    assert title in printed(rich_table(COLUMNS, [], title=title))
