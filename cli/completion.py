"""Shell completion of overrides, read off the folders and schemas of conf/: nothing is composed, so it is quick."""

from __future__ import annotations

from pathlib import Path

import typer

from conf.launchers import launcher_names

CONF_DIRECTORY = Path(__file__).resolve().parent.parent / "conf"


def group_options(command: str) -> dict[str, list[str]]:
    """The config groups that a command's defaults list names, each with its options."""
    text = _config_file(command).read_text(encoding="utf-8")
    # A command that begins with another's configuration (`- rlhf`) has its groups too.
    included = [CONF_DIRECTORY / f"{line.strip()[2:]}.yaml" for line in text.splitlines() if line.startswith("  - ")]
    text += "".join(path.read_text(encoding="utf-8") for path in included if path.is_file())
    groups = {}
    for path in sorted(entry for entry in CONF_DIRECTORY.iterdir() if entry.is_dir()):
        options = sorted(file.stem for file in path.glob("*.yaml"))
        if options and f"- {path.name}:" in text:
            groups[path.name] = options
    return groups | {"hydra/launcher": launcher_names()}


def complete_override(ctx: typer.Context, incomplete: str) -> list[str]:
    """Completions of `group=option` and of keys.

    bash breaks words at `=`: there a group's name and the sign are words of their own before `incomplete`.
    """
    command = ctx.info_name or ""
    if not _config_file(command).exists():
        return []
    groups = group_options(command)
    before = [word for word in ctx.params.get("overrides") or [] if word != "="]
    if before and before[-1] in groups:
        return [option for option in groups[before[-1]] if option.startswith(incomplete)]
    key, sign, start = incomplete.partition("=")
    if sign:
        return [f"{key}={option}" for option in groups.get(key, []) if option.startswith(start)]
    return [name for name in [*(f"{group}=" for group in groups), *setting_keys(command)] if name.startswith(key)]


def _config_file(command: str) -> Path:
    from conf.commands import COMMANDS

    name = COMMANDS[command].config_name if command in COMMANDS else command
    return CONF_DIRECTORY / f"{name}.yaml"


def setting_keys(command: str) -> list[str]:
    """`training.tokens=` and so on, from the command's schema."""
    from conf.commands import COMMANDS

    def walk(node: object, prefix: str) -> list[str]:
        keys: list[str] = []
        for name, value in vars(node).items():
            if hasattr(value, "__dataclass_fields__"):
                keys += walk(value, f"{prefix}{name}.")
            else:
                keys.append(f"{prefix}{name}=")
        return keys

    try:
        return walk(COMMANDS[command].schema()(), "")
    except (KeyError, TypeError, ValueError):
        return []
