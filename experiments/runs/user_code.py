"""Functions of the user's own, named by a setting as `my_rewards.py:shortness`.

Nothing here runs code before `load` is called: names are looked up in the syntax tree.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.runs.files import sha256_of_file


@dataclass(frozen=True)
class UserFunction:
    """A function, or a class whose instances are called, in a Python file; `arguments` are its keywords."""

    setting: str  # that names it, for messages
    path: Path
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def named(cls, setting: str, text: str, arguments: Mapping[str, Any] | None = None) -> UserFunction:
        """Of `file.py:name`. ValueError where there is no such file, or nothing of this name at its top level."""
        place, colon, name = text.rpartition(":")
        if not colon or not place or not name.isidentifier():
            raise ValueError(f"{setting}={text!r}: must be a file and a name in it, such as my_rewards.py:shortness")
        path = Path(place).expanduser()
        if not path.is_file():
            raise ValueError(f"{setting}={text!r}: {place} is not a file (paths are relative to {Path.cwd()})")
        defined = _names_in(path, setting)
        if name not in defined:
            near = difflib.get_close_matches(name, defined, n=1)
            raise ValueError(
                f"{setting}={text!r}: {place} defines no {name}: use one of {', '.join(defined) or 'nothing'}."
                + (f" Did you mean {near[0]}?" if near else "")
            )
        return cls(setting, path, name, dict(arguments or {}))

    def __str__(self) -> str:
        return f"{self.path.name}:{self.name}"

    def files(self) -> list[Path]:
        """The file, and the modules next to it that it imports, directly or through each other: all that it is."""
        found: dict[Path, None] = {}
        waiting = [self.path]
        while waiting:
            path = waiting.pop()
            if path not in found:
                found[path] = None
                waiting += _imported_from(self.path.parent, path, self.setting)
        return list(found)

    def recipe(self) -> dict[str, Any]:
        """Plain JSON that names it by content."""
        contents = [[file.name, sha256_of_file(file)] for file in sorted(self.files())]
        return {"function": str(self), "code": contents, "arguments": dict(self.arguments)}

    def module_value(self, name: str) -> Any:
        """A value at the top level of the file; None where there is none. Runs the file."""
        return getattr(self._module(), name, None)

    def load(self) -> Callable[..., Any]:
        """What to call. ValueError for a file that cannot be imported, and for arguments that do not fit."""
        found = getattr(self._module(), self.name)
        made: Callable[..., Any] = found if inspect.isclass(found) else functools.partial
        given = () if inspect.isclass(found) else (found,)
        try:
            if not inspect.isclass(found):
                inspect.signature(found).bind_partial(**self.arguments)
            function: Callable[..., Any] = made(*given, **self.arguments)
        except TypeError as error:
            arguments = self.setting.rpartition(".")[0] + ".arguments"
            raise ValueError(f"{arguments}={dict(self.arguments)} do not fit {self}: {error}") from error
        if not callable(function):
            raise ValueError(f"{self.setting}: {self} cannot be called: name a function, or a class with __call__")
        return function

    def _module(self) -> Any:
        folder = str(self.path.resolve().parent)
        files = self.files()
        _forget_earlier(files, self.setting)
        spec = importlib.util.spec_from_file_location(f"user_code_{self.path.stem}", self.path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.path.insert(0, folder)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".removesuffix(": ")
            raise ValueError(f"{self.setting}: {self.path} cannot be imported ({reason})") from error
        finally:
            _remember(files)
            sys.path.remove(folder)
            if folder not in sys.path:
                sys.path.append(folder)  # for what a function imports when it is called
        return module


_loaded: set[str] = set()  # modules that user code has imported from its own folder


def _forget_earlier(files: list[Path], setting: str) -> None:
    """Another run of this process may have imported other modules of these names, or these before a change."""
    for name in _loaded:
        sys.modules.pop(name, None)
    _loaded.clear()
    for path in files[1:]:
        name = path.parent.name if path.stem == "__init__" else path.stem
        if name in sys.modules:
            raise ValueError(f"{setting}: {path.name} has the name of another module, {name}: rename it")


def _remember(files: list[Path]) -> None:
    own = {str(path.resolve()) for path in files}
    _loaded.update(name for name, module in sys.modules.items() if getattr(module, "__file__", None) in own)


def _tree(path: Path, setting: str) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"), str(path))
    except SyntaxError as error:
        raise ValueError(f"{setting}: {path} line {error.lineno}: {error.msg}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{setting}: {path} cannot be read ({error})") from error


def _names_in(path: Path, setting: str) -> list[str]:
    """What the file defines at its top level and can be called: functions, classes, imports, assignments."""
    names: list[str] = []
    for node in _tree(path, setting).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.ImportFrom):
            names += [alias.asname or alias.name for alias in node.names]
    return names


def _imported_from(folder: Path, path: Path, setting: str) -> list[Path]:
    """The files in `folder` that `path` imports; of a package all its modules."""
    names = set()
    for node in ast.walk(_tree(path, setting)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    found = []
    for name in sorted(names):
        if (module := folder / f"{name}.py").is_file():
            found.append(module)
        elif (folder / name / "__init__.py").is_file():
            found += sorted((folder / name).rglob("*.py"))
    return found
