"""One pre-flight for every command: overrides in, checked jobs out, or one clear message.

Hydra composes; this module finds what Hydra lets pass (unknown keys behind `+`, impossible combinations) and says what
was probably meant. Nothing here imports torch.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from conf.commands import Command
from conf.launchers import explain_missing_plugin, register_launcher_schemas
from conf.limits import checked
from conf.override_rules import UserError, check_values, first_line, parse, refuse_resolvers, short
from conf.renamed import refusal_of_old_names
from experiments.runs.identity import flatten, run_id

CONF_DIRECTORY = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Job:
    """One composed and checked job: what a single run or one point of a sweep will do."""

    overrides: tuple[str, ...]
    config: DictConfig  # without Hydra's own node
    settings: Any  # the same, checked: the command's dataclass
    run_id: str


def plan_jobs(command: Command, overrides: list[str], *, multirun: bool) -> tuple[list[Job], bool]:
    """Compose and check every job that `overrides` ask for; the second value says whether Hydra will run a sweep.

    Raises UserError for anything that a user can fix. A sweeper that chooses its points while it runs (optuna) has
    no jobs to list beforehand: its first point is checked.
    """
    if renamed := refusal_of_old_names(overrides):
        raise UserError(renamed)
    parsed = parse(overrides)
    _check_groups(parsed, command)
    swept = [override for override in parsed if override.is_sweep_override()]
    for override in swept:
        _refuse_repetition(override)
    if swept and not multirun:
        base = _compose(command, [_first_choice(override) for override in parsed], hydra=True)
        if base.hydra.mode is None or base.hydra.mode.name != "MULTIRUN":
            raise UserError(f"{swept[0].input_line} is a sweep: add -m (--multirun) to run all its jobs")
    for override in parsed:
        if override.key_or_group in ("hydra.launcher", "hydra.sweeper"):
            group = override.key_or_group.replace(".", "/")
            raise UserError(f"{override.key_or_group} is a group: write {group}={override.value()}")
        if override in swept and override.key_or_group.startswith(("hydra/", "hydra.")):
            raise UserError(f"{override.input_line} cannot be swept: a setting of Hydra's has one value for all jobs")
    single = [_first_choice(override) for override in parsed]
    first = _compose(command, [text for text in single if _is_group(text)], hydra=True)
    _check_keys(parsed, first)
    full = _compose(command, single, hydra=True)
    multirun = multirun or (full.hydra.mode is not None and full.hydra.mode.name == "MULTIRUN")
    if not multirun:
        return [_checked_job(command, overrides)], False
    if is_search(full.hydra):
        return [_checked_job(command, single)], True
    params = full.hydra.sweeper.get("params") or {}
    given = {override.key_or_group for override in parsed}
    from_config = [f"{key}={value}" for key, value in params.items() if key not in given]
    _check_keys(parse([*from_config, *overrides]), first)  # together: their jobs multiply
    return [_checked_job(command, list(job)) for job in expand([*from_config, *overrides])], True


def hydra_settings(command: Command, overrides: list[str]) -> DictConfig:
    """Hydra's own part of the configuration: launcher, sweeper, mode."""
    settings: DictConfig = _compose(command, [_first_choice(text) for text in parse(overrides)], hydra=True).hydra
    return settings


def is_search(hydra: DictConfig) -> bool:
    """Whether the sweeper chooses its points while it runs (optuna): nobody knows its jobs beforehand."""
    return "BasicSweeper" not in str(hydra.sweeper.get("_target_", ""))


def expand(overrides: list[str]) -> list[tuple[str, ...]]:
    """The grid of a sweep in the order of Hydra's basic sweeper: the last swept key moves fastest."""
    grid: list[tuple[str, ...]] = [()]
    for override in parse(overrides):
        key = override.get_key_element()
        if override.is_sweep_override():
            choices = [f"{key}={text}" for text in _sweep_texts(override)]
        else:
            choices = [override.input_line or ""]
        grid = [(*job, choice) for job in grid for choice in choices]
    return grid


def typed(command: Command, config: DictConfig) -> Any:
    """The composed configuration as the command's dataclass. UserError for stray keys and impossible values."""
    schema = OmegaConf.structured(command.schema())
    refuse_resolvers(_unresolved(config))
    try:
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        check_values(plain(config))
        merged = OmegaConf.merge(schema, values)
        assert isinstance(merged, DictConfig)
        return checked(merged)
    except OmegaConfBaseException as error:
        raise UserError(first_line(error)) from error
    except ValueError as error:
        raise UserError(str(error)) from error
    except OSError as error:
        raise UserError(_unreadable(error)) from error


def _unresolved(config: DictConfig) -> dict[str, Any]:
    container = OmegaConf.to_container(config, resolve=False)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items() if key != "hydra"}


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as JSON-able values; enums by name."""
    container = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items() if key != "hydra"}


def identity_of(composed: DictConfig, checked: Any) -> str:
    """The run id of a job: of its configuration, and of what `checked`, the typed form, adds from outside of it."""
    return run_id(plain(composed), checked.input_files(), checked.counted_processes())


def differences(command: Command, config: DictConfig) -> dict[str, Any]:
    """Flat keys whose values are not those of the command without overrides: what is special about a run."""
    defaults = flatten(plain(_compose(command, [])))
    return {key: value for key, value in flatten(plain(config)).items() if defaults.get(key, ...) != value}


def config_groups() -> dict[str, list[str]]:
    """Config groups and their options, as the folders of conf/ have them; an option may lie deeper: `set/option`."""
    groups: dict[str, list[str]] = {}
    for path in sorted(CONF_DIRECTORY.rglob("*.yaml")):
        group, *option = path.relative_to(CONF_DIRECTORY).with_suffix("").parts
        if option and group != "hydra":  # launchers: plug-ins add more of them
            groups.setdefault(group, []).append("/".join(option))
    return groups


def suggestion(word: str, known: Iterable[str]) -> str:
    """` Did you mean x?`, or nothing where nothing is near."""
    known = list(dict.fromkeys(known))
    last = word.rsplit(".", 1)[-1]
    near = [key for key in known if key.rsplit(".", 1)[-1] == last][:3]  # the right name in the wrong place
    near = near or difflib.get_close_matches(word, known, n=2, cutoff=0.6)
    near = near or [key for key in known if difflib.get_close_matches(last, [key.rsplit(".", 1)[-1]], cutoff=0.8)][:3]
    return f" Did you mean {' or '.join(near)}?" if near else ""


def _check_groups(parsed: list[Override], command: Command) -> None:
    groups = config_groups()
    for override in parsed:
        options = groups.get(override.key_or_group)
        if options is None:
            continue
        for text in _sweep_texts(override) if override.is_sweep_override() else [str(override.value())]:
            if text not in options:
                raise UserError(
                    f"{override.key_or_group}={text} does not exist: use one of {', '.join(options)}."
                    + suggestion(text, options)
                )


def _check_keys(parsed: list[Override], composed: DictConfig) -> None:
    groups = config_groups()
    flat = flatten(plain(composed))
    known = [*flat, *{key.rsplit(".", depth)[0] for key in flat for depth in range(1, key.count(".") + 1)}]
    for override in parsed:
        key = override.key_or_group
        if key in groups or key in known or key.startswith("hydra"):
            continue
        if is_free_mapping(composed, key) or is_free_mapping(composed, key.rpartition(".")[0]):
            continue  # a free mapping takes any key
        names = [*known, *(group for group in groups if OmegaConf.select(composed, group) is not None)]
        raise UserError(f"unknown setting {key}.{suggestion(key, names)} (--cfg job prints all)")


def is_free_mapping(composed: DictConfig, key: str) -> bool:
    """Whether the setting is a mapping of any keys, such as the arguments of a function."""
    node = OmegaConf.select(composed, key) if key else None
    return isinstance(node, DictConfig) and OmegaConf.get_type(node) is dict


@lru_cache(maxsize=256)
def _composed(command: Command, overrides: tuple[str, ...]) -> DictConfig:
    """What Hydra composes, with its own node. Composing takes a third of a second, so the result is kept: copy it."""
    command.schema()
    register_launcher_schemas()
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(CONF_DIRECTORY), version_base="1.3"):
        return compose(config_name=command.config_name, overrides=list(overrides), return_hydra_config=True)


def _compose(command: Command, overrides: list[str], *, hydra: bool = False) -> DictConfig:
    try:
        config = copy.deepcopy(_composed(command, tuple(overrides)))
        if not hydra:
            with flag_override(config, ["struct", "readonly"], False):
                del config["hydra"]
        return config
    except (HydraException, OmegaConfBaseException) as error:
        other = re.match(r"Could not override '([^']+)'", str(error))
        if other and other[1].startswith("hydra.launcher."):
            without = [text for text in overrides if not text.lstrip("+").startswith("hydra.launcher.")]
            keys = _compose(command, without, hydra=True).hydra.launcher
            known = [f"hydra.launcher.{key}" for key in keys]
            raise UserError(f"{other[1]} is not a setting of this launcher.{suggestion(other[1], known)}") from error
        if other and any(text.startswith(f"{other[1]}=") for text in overrides) and "." in other[1]:
            without = [text for text in overrides if not text.startswith(f"{other[1]}=")]
            base = _compose(command, without)
            if is_free_mapping(base, other[1]):
                raise UserError(f"{other[1]} is a mapping: add its keys one by one, +{other[1]}.name=value") from error
            if is_free_mapping(base, other[1].rpartition(".")[0]):
                raise UserError(f"{other[1]} is a new key of a mapping: write +{other[1]}=...") from error
        if other and overrides:  # a group of other commands
            keys = flatten(plain(_compose(command, [])))
            known = [*keys, *(key.split(".")[0] for key in keys)]
            raise UserError(
                f"unknown setting {other[1]}.{suggestion(other[1], known)} (--cfg job prints all)"
            ) from error
        raise UserError(_explain(error)) from error
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        # Of Hydra or OmegaConf, which meet odd overrides unprepared: a mapping for null, a list for a group.
        given = short(" ".join(overrides))
        raise UserError(
            f"{given} cannot be composed ({short(first_line(error))}): set single keys, key=value"
        ) from error


def _checked_job(command: Command, overrides: list[str]) -> Job:
    config = _compose(command, overrides)
    checked = typed(command, config)
    try:
        return Job(tuple(overrides), config, checked, identity_of(config, checked))
    except OSError as error:
        raise UserError(_unreadable(error)) from error


def _sweep_texts(override: Override) -> list[str]:
    value = override.value()
    if isinstance(value, Glob):
        return list(value.filter(config_groups().get(override.key_or_group, [])))
    try:
        return [str(text) for text in override.sweep_string_iterator()]
    except HydraException as error:
        raise UserError(f"{override.input_line}: {first_line(error)}") from error


def _refuse_repetition(override: Override) -> None:
    if isinstance(override.value(), ChoiceSweep):
        texts = _sweep_texts(override)
        if twice := next((text for text in texts if texts.count(text) > 1), None):
            raise UserError(f"{override.input_line} names {twice} twice: each value is one job")


def _first_choice(override: Override) -> str:
    if not override.is_sweep_override():
        return override.input_line or ""
    value = override.value()
    if isinstance(value, IntervalSweep):  # a search chooses its points itself
        return f"{override.get_key_element()}={value.start}"
    texts = _sweep_texts(override)
    if not texts:
        raise UserError(f"{override.input_line} matches nothing: there is no job to run")
    return f"{override.get_key_element()}={texts[0]}"


def _is_group(text: str) -> bool:
    return text.lstrip("+").split("=", 1)[0].split("@", 1)[0] in config_groups()


def _unreadable(error: OSError) -> str:
    return f"{short(str(error.filename))} cannot be read: {error.strerror}"


def _explain(error: BaseException) -> str:
    first, cause = first_line(error), error.__cause__
    plugin = re.search(r"Could not (?:find|load) '(hydra/(?:launcher|sweeper))/(\w+)'", str(error))
    if plugin and (text := explain_missing_plugin(*plugin.groups())):
        return text
    if cause is None or not str(cause):
        return first
    if (override := re.search(r"Error merging override \+*(\S+?)=(.*)", first)) is None:
        return f"{first}: {first_line(cause)}"
    key, value = override.groups()
    if re.search(r"is not a ListConfig|assign.* to ListConfig", str(cause)):
        return f"{key}={value} is not a list, but this setting takes one: write '{key}=[{value}]'"
    return f"{key}={value}: {first_line(cause)}"
