"""The installed Python's standard library: its source as a training corpus, its docstrings as a held-out set.

Both differ between Python versions, so the version and a hash of the files are part of the recipe.
"""

from __future__ import annotations

import ast
import hashlib
import platform
import sysconfig
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.data.documents import Document

# Left out, so that installations agree and the text is worth reading: tests and demonstrations (not installed
# everywhere), graphical parts, packages that newer versions dropped, generated tables, files of the build.
LEFT_OUT = frozenset(
    [
        "test",
        "tests",
        "idlelib",
        "tkinter",
        "turtle",
        "turtledemo",
        "distutils",
        "lib2to3",
        "ensurepip",
        "pydoc_data",
        "encodings",
        "site-packages",
        "dist-packages",
        "__pycache__",
        "__phello__",
        "sitecustomize",
        "usercustomize",
    ]
)
LEFT_OUT_PREFIXES = ("_sysconfigdata", "config-")

# Whole modules of different kinds, about 7 % of the text: arithmetic, text, formats, storage, threads, the web.
HELD_OUT_MODULES = frozenset(
    [
        "argparse",
        "bisect",
        "concurrent",
        "csv",
        "difflib",
        "fractions",
        "json",
        "queue",
        "shelve",
        "sqlite3",
        "statistics",
        "textwrap",
        "wsgiref",
    ]
)


@dataclass(frozen=True)
class PythonSource:
    """One document per source file, named as in "json/decoder.py"; HELD_OUT_MODULES are held out whole."""

    name: str = "python_source"
    holdout_fraction: float = 0.0  # unused: the split is by module

    def recipe(self) -> dict[str, Any]:
        """Python's version and a hash of all files. ValueError when the library's source is not installed."""
        return {"source": "python_source", **_library(), "held_out": sorted(HELD_OUT_MODULES)}

    def documents(self) -> Iterator[Document]:
        """The files in the order of their names."""
        for name, file in library_files():
            yield Document(name, _source_text(file), held_out=_module(name) in HELD_OUT_MODULES)


@dataclass(frozen=True)
class PythonDocstrings:
    """An evaluation set only: the docstrings of a file, cleaned of indentation, are one held-out document.

    Files are taken in the order of a hash of their names until `characters` is reached: a sample of the whole
    library rather than the modules that begin with a.
    """

    characters: int = 250_000
    name: str = "python_docstrings"
    holdout_fraction: float = 0.0  # unused: all of it is held out

    def recipe(self) -> dict[str, Any]:
        """Python's version and a hash of all files. ValueError when the library's source is not installed."""
        return {"source": "python_docstrings", **_library(), "characters": self.characters}

    def documents(self) -> Iterator[Document]:
        """Held-out documents until `characters` is reached."""
        total = 0
        for name, file in sorted(library_files(), key=lambda item: hashlib.sha256(item[0].encode()).digest()):
            text = "\n\n".join(_docstrings(_source_text(file)))
            if text:
                yield Document(name, text, held_out=True)
                total += len(text)
            if total >= self.characters:
                return


def library_files() -> list[tuple[str, Path]]:
    """(name, file) of every .py file that is used, by name. ValueError when there are none."""
    root = Path(sysconfig.get_path("stdlib"))
    files = []
    for file in root.rglob("*.py"):
        parts = file.relative_to(root).with_suffix("").parts
        if LEFT_OUT.isdisjoint(parts) and not parts[0].startswith(LEFT_OUT_PREFIXES):
            files.append((file.relative_to(root).as_posix(), file))
    if not files:
        raise ValueError(f"the Python standard library has no source files in {root}: use data=web_bible")
    return sorted(files)


def _library() -> dict[str, Any]:
    digest = hashlib.sha256()
    for name, file in library_files():
        digest.update(name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return {"python": platform.python_version(), "files_sha256": digest.hexdigest()}


def _module(name: str) -> str:
    return name.split("/")[0].removesuffix(".py")


def _source_text(file: Path) -> str:
    """The file's text, in the encoding that it declares."""
    with tokenize.open(file) as stream:
        return stream.read()


def _docstrings(source: str) -> list[str]:
    """Docstrings of the module, its classes and functions, in source order."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    nodes.sort(key=lambda node: getattr(node, "lineno", 0))
    return [text for node in nodes if (text := ast.get_docstring(node))]
