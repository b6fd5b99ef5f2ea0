"""What an override may say before anything is composed: its form, its size, and what it must never name.

Refused are what Hydra would act upon beyond settings (folders, search paths, classes, callbacks), resolvers such as
`${oc.env:NAME}` and texts that look like secrets: settings are recorded with the run and sent to W&B. See SECURITY.md.
"""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, OverrideType, RangeSweep
from hydra.errors import HydraException

from experiments.runs.identity import flatten

MOST_CHARACTERS = 20_000  # of one override: Hydra's parser takes seconds for more
MOST_JOBS = 1_000  # of a sweep: a quarter of a second each, before the first begins
MOST_BRACKETS = 100  # Hydra's parser is recursive
# Of Hydra's own settings: which launcher, which sweeper, their settings, and whether to sweep.
HYDRA_GROUPS = ("hydra/launcher", "hydra/sweeper")
HYDRA_KEYS = re.compile(r"hydra\.(mode$|(launcher|sweeper)(\.|$))")
SECRET_NAME = re.compile(r"(^|_)(api_?key|access_?key|token|secret|password|passwd|credentials?)(_|$)", re.IGNORECASE)
# A password in an address; tokens and keys of the hub, OpenAI, W&B, Google, AWS, GitHub, GitLab, Slack.
SECRET_TEXT = re.compile(
    r"://[^/\s:@]*:[^/\s@]+@|\b((hf|api_org|wandb_v\d|gh[oprsu]|github_pat)_\w{20,}|(sk|glpat)-[\w-]{20,}"
    r"|AIza[\w-]{30,}|(AKIA|ASIA)[A-Z0-9]{16}\b|xox[abp]-[\w-]{10,})"
)
LEAST_SECRET = 8  # characters: shorter values of secret variables occur in settings by chance
PATHS = ("path", "data_files", "output_dir", "problem")
MOST_AS_INTEGER = 10**15
_POWER_OF_TEN = re.compile(r"(?<![^,=\[])\d+(\.\d+)?[eE]\+?\d{1,2}(?![^,\]])")
ONE_LINE = ("path", "name", "project", "group", "tags", "output_dir", "problem", "data_files", "revision")


class UserError(Exception):
    """A mistake of the user: one message with the value, what is allowed and how to fix it. Exit code 2."""


def friendly(command: str, overrides: Iterable[str]) -> list[str]:
    """Overrides as they are meant: `1e5` is the integer, and lists of reward models have one way of being written.

    `rewards=[a,b]` of reward-eval evaluates all in one run, `reward=a,b` of rlhf has a job for each. `~` and $NAME in
    paths are what the shell would make of them.
    """
    meant = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not re.search(r"['\"()]", value):
            value = _POWER_OF_TEN.sub(_as_integer, value)
        path = value.strip("\"'")
        if key.rsplit(".", 1)[-1] in PATHS and (path.startswith("~") or re.search(r"\$\w", path)):
            value = quoted(os.path.expandvars(os.path.expanduser(path)))
        if command == "reward-eval" and key == "reward" and value:
            key, value = "rewards", value if value.startswith("[") else f"[{value}]"
        elif command in ("rlhf", "rlhf-sweep") and key == "rewards" and value:
            key, value = "reward", value.removeprefix("[").removesuffix("]")
        meant.append(f"{key}{equals}{value}")
    return meant


def quoted(text: str) -> str:
    """A text as the value of an override, whatever characters it has."""
    if re.fullmatch(r"[\w./-]*", text):
        return text
    # Hydra's grammar: a backslash escapes quotes, and backslashes before them and at the end.
    escaped = re.sub(r'(\\*)("|$)', lambda found: 2 * found[1] + ("\\" + found[2] if found[2] else ""), text)
    return f'"{escaped}"'


def _as_integer(found: re.Match[str]) -> str:
    number = Decimal(found[0])
    return str(int(number)) if number == int(number) and number < MOST_AS_INTEGER else found[0]


def parse(overrides: Iterable[str]) -> list[Override]:
    """The overrides as Hydra reads them. UserError for what cannot be read and for what is not allowed."""
    parsed: list[Override] = []
    for text in overrides:
        _check_text(text)
        if "=" not in text[1:] and not text.startswith("~"):
            raise UserError(f"{short(text)!r} is not an override: write key=value, such as seed=1 or attention=gla")
        try:
            parsed.extend(OverridesParser.create().parse_overrides([text]))
        except (HydraException, ValueError, ArithmeticError) as error:  # numbers of thousands of digits, ranges of nan
            key, _, value = text.partition("=")
            if value != (fewer := re.sub(r"^,+|,+(?=,|\]|$)|(?<=\[),+", "", value)):
                raise UserError(f"{short(text)} has a comma too many: write {short(f'{key}={fewer}')}") from error
            raise UserError(
                f"{short(text)!r} could not be read ({short(first_line(error))}): a value with odd characters needs "
                f"quotes of its own inside those of the shell, '{short(key)}=\"...\"'"
            ) from error
    for override in parsed:
        _check_form(override)
        _check_hydra(override)
    _check_size(parsed)
    return parsed


def check_values(config: Mapping[str, Any]) -> None:
    """Of a resolved configuration: texts that OmegaConf would resolve once more, and names of several lines."""
    for key, value in flatten(dict(config)).items():
        for text in _texts(value):
            if "${" in text:
                raise UserError(f"{key}={short(text)} would be resolved once more: no value may hold ${{...}} as text")
            if "\n" in text and key.rsplit(".", 1)[-1] in ONE_LINE:
                raise UserError(f"{key}={short(text)!r}: must be one line")


def refuse_resolvers(config: Mapping[str, Any]) -> None:
    """Of a configuration before it is resolved: references to other settings are well, resolvers are not."""
    for key, value in flatten(dict(config)).items():
        for text in _texts(value):
            if _has_resolver(text):
                _refuse_resolver(f"{key}={text}")


def first_line(error: BaseException) -> str:
    """The first line of an error of Hydra or OmegaConf, with the key that it is about."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    where = next((line for line in lines if line.startswith("full_key:")), "")
    first = lines[0] if lines else type(error).__name__
    return f"{where.removeprefix('full_key: ')}: {first}" if where else first


def short(text: str) -> str:
    """At most 200 characters, without those that a terminal would obey."""
    text = "".join(repr(mark)[1:-1] if unicodedata.category(mark) in ("Cc", "Cs") else mark for mark in text)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _check_text(text: str) -> None:
    kind = _secret_in(text)
    if kind is not None:  # before anything else, whose message would show it
        key = text.split("=", 1)[0] if "=" in text else "an override"
        raise UserError(
            f"{key if _secret_in(key) is None else 'an override'} holds {kind}: settings are recorded with the run and "
            "sent to W&B, so a secret belongs into the environment (HF_TOKEN, WANDB_API_KEY) or into `hf auth login`"
        )
    odd = next((mark for mark in text if mark not in "\n\t" and unicodedata.category(mark) in ("Cc", "Cs")), None)
    if odd is not None:
        what = "bytes that are not UTF-8" if unicodedata.category(odd) == "Cs" else f"the control character {odd!r}"
        raise UserError(f"{short(text)!r} holds {what}: write plain text")
    if len(text) > MOST_CHARACTERS:
        raise UserError(f"{text[:50]!r}... has {len(text):,} characters: {MOST_CHARACTERS:,} are the most")
    if (brackets := sum(map(text.count, "([{"))) > MOST_BRACKETS:
        raise UserError(f"{text[:50]!r}... has {brackets:,} brackets: {MOST_BRACKETS} are the most")
    if "_target_" in text:
        raise UserError(f"{short(text)}: _target_ names a class to make: use hydra/launcher= or hydra/sweeper=")


def _check_form(override: Override) -> None:
    if override.type is OverrideType.DEL:
        raise UserError(
            f"{short(override.input_line or '')}: a setting cannot be deleted; set it to a value, or to null where "
            "allowed"
        )
    if override.package is not None:
        raise UserError(
            f"{short(override.input_line or '')}: a group has its place here; write "
            f"{override.key_or_group}=... without @{override.package}"
        )


def _check_hydra(override: Override) -> None:
    key, text = override.key_or_group, short(override.input_line or "")
    if not re.match(r"hydra([./]|$)", key):
        return
    if key not in HYDRA_GROUPS and not HYDRA_KEYS.match(key) and not key.startswith("hydra/sweeper/"):
        raise UserError(
            f"{text} is refused: of Hydra's own settings hydra/launcher, hydra/sweeper, hydra.launcher.*, "
            "hydra.sweeper.* and hydra.mode may be set (output_dir=PATH says where results go)"
        )
    if _has_resolver(override.input_line or ""):
        _refuse_resolver(text)


def _check_size(parsed: list[Override]) -> None:
    jobs = math.prod(_choices(override) for override in parsed)
    if jobs > MOST_JOBS:
        raise UserError(f"a sweep of {jobs:,} jobs is too large: {MOST_JOBS:,} are the most, so divide it")


def _choices(override: Override) -> int:
    """How many values, without making them. Globs are as many as there are options: counted as one."""
    sweep = override.value()
    if isinstance(sweep, ChoiceSweep):
        return len(sweep.list)
    if not isinstance(sweep, RangeSweep):
        return 1
    start, stop, step = sweep.start or 0, sweep.stop or 0, sweep.step
    try:
        if all(isinstance(number, int) for number in (start, stop, step)):
            return max(0, math.ceil((int(stop) - int(start)) // int(step)) if step else _no_range(override))
        return max(0, math.ceil((stop - start) / step))
    except (ArithmeticError, ValueError):  # a step of 0, nan, infinity
        return _no_range(override)


def _no_range(override: Override) -> int:
    raise UserError(
        f"{short(override.input_line or '')} is not a range: write range(start,stop,step) of finite numbers"
    )


def _has_resolver(text: str) -> bool:
    """`${name:...}`, also with a name that is itself a reference; `${key}` alone is none."""
    return re.search(r"\$\{[^}\s]*:|\$\{[^:]*\}[^}]*:", text) is not None


def _refuse_resolver(text: str) -> None:
    raise UserError(
        f"{short(text)} is refused: what resolvers such as ${{oc.env:...}} find would be recorded with the run; "
        'reference settings only (${seed}), and let the shell fill in variables ("output_dir=$SCRATCH/runs")'
    )


def _secret_in(text: str) -> str | None:
    if SECRET_TEXT.search(text):
        return "a password, token or key"
    for name, value in os.environ.items():
        if SECRET_NAME.search(name) and len(value) >= LEAST_SECRET and value in text:
            return f"the value of the environment variable {name}"
    return None


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for pair in value.items() for item in pair for text in _texts(item)]
    if isinstance(value, list | tuple):
        return [text for item in value for text in _texts(item)]
    return []
