"""Imports go one way: cli -> experiments/*.py -> conf -> rooms, and among rooms only towards the foundations."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A room may import the rooms on later lines, not those on its own line or above.
ROOM_LAYERS = [
    {"benchmarks", "preparation", "teaching_signal"},
    {"controlled_experiments", "training", "reports"},
    {"decoding", "rewards", "reward_metrics", "policies"},
    {"tasks"},
    {"models", "data"},
    {"runs"},
]
# From configurations to what experiments on rewards start from: configuration does not know it.
KNOW_CONFIGURATION = {"preparation"}
# Drawing is a leaf that others may use: these import nothing of their room but each other.
# From Python, as the command line is from a terminal: it does what a command does.
DOORS = {"experiments/api.py"}
OPEN_TO_ALL = {"experiments.reports.style", "experiments.reports.reward_styles"}


def imported_modules(path: Path) -> set[str]:
    package = path.relative_to(ROOT).parent.parts
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            names.add(".".join(part for part in (base, node.module or "") if part))
    return names


def modules(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", modules("experiments", "conf", "cli"), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_lies_below_it(path):
    parts = path.relative_to(ROOT).parts
    imported = imported_modules(path) - OPEN_TO_ALL
    tops = {name.split(".")[0] for name in imported}
    rooms = {name.split(".")[1] for name in imported if name.startswith("experiments.") and name.count(".") >= 1}
    all_rooms = set().union(*ROOM_LAYERS)
    if parts[0] != "cli" and "/".join(parts) not in DOORS:
        assert "cli" not in tops, "nothing imports the command line"
    if parts[0] == "conf":
        assert rooms <= all_rooms - KNOW_CONFIGURATION, "configuration knows rooms, not experiments"
    if parts[0] == "experiments" and len(parts) > 2:
        room = parts[1]
        assert "conf" not in tops or room in KNOW_CONFIGURATION, "a room takes plain arguments, not configuration"
        above = set().union(*ROOM_LAYERS[: next(i for i, layer in enumerate(ROOM_LAYERS) if room in layer) + 1])
        assert not (rooms - {room}) & above, f"{room} imports a room beside or above it"
        assert rooms <= all_rooms, f"{room} imports an experiment"


def test_every_room_has_its_layer():
    folders = {path.name for path in (ROOT / "experiments").iterdir() if (path / "__init__.py").exists()}
    assert folders <= set().union(*ROOM_LAYERS)


def test_the_models_folder_stands_alone():
    for path in (ROOT / "experiments" / "models").glob("*.py"):
        foreign = {name for name in imported_modules(path) if name.startswith("experiments.")}
        assert all(name.startswith("experiments.models") for name in foreign), path


def test_every_path_that_contributing_names_exists():
    """In the table of where to start; `<command>` and the like stand for any name."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = set(re.findall(r"`((?:cli|conf|docs|experiments|outputs|tests)/[\w./<>-]*)`", text))
    assert len(paths) > 20
    for path in sorted(paths):
        pattern = re.sub(r"<[^>]+>", "*", path).rstrip("/")
        assert list(ROOT.glob(pattern)), f"CONTRIBUTING.md names {path}, which does not exist"


@pytest.mark.parametrize("word", ["utils", "helpers", "common", "misc", "manager"])
def test_no_module_has_a_name_that_says_nothing(word):
    assert not [path for path in modules("experiments", "conf", "cli", "tests") if word in path.stem]
