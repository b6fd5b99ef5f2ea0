"""The tables of README and docs come from the published files, and nowhere else."""

from __future__ import annotations

import json
import re

import pytest

from experiments.document_tables import DOCUMENTS, ROOT, TABLE, TABLES, render

PUBLISHED = ROOT / "outputs" / "reference"
WITHOUT_RESULTS = ("| command | what it does | manual |",)  # tables that hold no numbers


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_tables_are_those_of_the_published_files(document):
    text = document.read_text(encoding="utf-8")
    assert render(text, PUBLISHED) == text, "python -m experiments.document_tables renders them again"


def test_no_table_of_the_readme_is_typed_by_hand():
    typed = TABLE.sub("", (ROOT / "README.md").read_text(encoding="utf-8"))
    headings = re.findall(r"^(\|.*)\n\| ?---", typed, re.M)
    assert [heading for heading in headings if heading not in WITHOUT_RESULTS] == []


def test_every_table_of_the_command_is_in_a_document():
    named = {name for path in DOCUMENTS for _, name, _ in TABLE.findall(path.read_text(encoding="utf-8"))}
    assert set(TABLES) <= named


def test_an_even_number_of_sizes_has_the_mean_of_the_middle_two_as_median(tmp_path):
    def row(model: str, kernel: str, limit: float) -> dict:
        same = {"context": 1, "query_length": 1, "dtype": "fp32", "status": "measured", "runs": 3, "seconds": 1.0}
        return same | {"model": model, "kernel": kernel, "fraction_of_limit": limit}

    rows = [
        row(model, kernel, limit) | {"mechanism": mechanism, "query_length": length}
        for mechanism in ("mha", "gqa-4", "gta-4", "mla", "gla-2")
        for length in (1, 2, 4)
        for model, limit in (("a", 0.2), ("b", 0.4))
        for kernel in ("cpu", "sdpa")
    ]
    place = tmp_path / "bench" / "attention_a_1"
    place.mkdir(parents=True)
    (place / "results.json").write_text(json.dumps({"rows": rows}))
    assert TABLES["attention"](tmp_path).splitlines()[2].startswith("| MHA | 0.30 (0.20 to 0.40) |")


def test_a_statement_without_an_interval_says_so(tmp_path):
    item = {"statement": "a | b", "effect": 0.5, "interval": None, "n": 1, "verdict": "inconclusive", "measured": "c"}
    item |= {"unit": "seeds", "sample": "1 pair x 3 seeds", "kind": "paper", "ruled": "2026-11-30"}
    place = tmp_path / "rlhf" / "mine"
    place.mkdir(parents=True)
    (place / "statements.json").write_text(json.dumps([item]))
    (place / "provenance.json").write_text(json.dumps({"runs": {"ended": ["2026-11-29T21:00:00+00:00"]}}))
    text = "<!-- table: rlhf/mine -->\n<!-- end of table -->"
    assert "| a \\| b | 0.5, no interval | 1 pair x 3 seeds | inconclusive, exploratory | c |" in render(text, tmp_path)
