"""Checks that a text meets or not, in the manner of IFEval (arXiv 2311.07911) and IFBench (arXiv 2507.02833).

Each is one small function of the text, chosen so that a language model of a million parameters meets some of them at
every second try and others at every hundredth. A check with an argument is written `name:argument`, such as
`minimum_words:12`; without one it takes the default of its description.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

Check = Callable[[str], bool]


@dataclass(frozen=True)
class Constraint:
    """One check of a text."""

    name: str  # as it was asked for: minimum_words:12
    description: str  # an instruction to a reader
    check: Check


@dataclass(frozen=True)
class CheckKind:
    """A family of checks that differ in an argument, or one check without any."""

    description: str  # {} stands for the argument
    check: Callable[..., bool]  # of the text, and of the argument where there is a default
    default: int | str | None = None

    def constraint(self, name: str, argument: str | None) -> Constraint:
        """The check with this argument. ValueError for one that it cannot take."""
        if self.default is None:
            if argument is not None:
                raise ValueError(f"the constraint {name} takes no argument: write {name.partition(':')[0]}")
            return Constraint(name, self.description, self.check)
        value: int | str = self.default if argument is None else argument
        if isinstance(self.default, int):
            if not str(value).isdecimal() or int(value) < 1:
                raise ValueError(f"the constraint {name} needs a whole number of at least 1, as in {_example(self)}")
            value = int(value)
        elif not str(value).isalpha():
            raise ValueError(f"the constraint {name} needs letters, as in {_example(self)}")
        else:
            value = str(value).lower()
        check = self.check
        return Constraint(name, self.description.format(value), lambda text: check(text, value))


_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")
_NUMBER_WORDS = frozenset(
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred hundreds thousand thousands "
    "million millions".split()
)
_PRONOUNS = frozenset(
    "i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers "
    "herself it its itself they them their theirs themselves".split()
)
_CLOSING = "\"'\N{RIGHT DOUBLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK})]"
_QUOTATION_MARKS = '"\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}'


def words(text: str) -> list[str]:
    """The words of a text in lower case; apostrophes and hyphens within a word belong to it."""
    return _WORD.findall(text.lower())


def ends_with(text: str, marks: str) -> bool:
    """Whether the last character before white space and closing quotes is one of `marks`."""
    end = text.rstrip().rstrip(_CLOSING)
    return end != "" and end[-1] in marks


def no_repeated_word(text: str) -> bool:
    """Five words or more, none twice. Without the bound a full stop would do."""
    found = words(text)
    return len(found) >= 5 and len(set(found)) == len(found)


def no_neighbours_alike(text: str) -> bool:
    """Five words or more, no two neighbours with the same first letter."""
    letters = [word[0] for word in words(text)]
    return len(letters) >= 5 and all(a != b for a, b in pairwise(letters))


def longest_run(text: str, goes_on: Callable[[str, str], bool]) -> int:
    """Most words in a row whose neighbours' first letters satisfy `goes_on`; 0 without words."""
    letters = [word[0] for word in words(text)]
    longest = run = min(1, len(letters))
    for a, b in pairwise(letters):
        run = run + 1 if goes_on(a, b) else 1
        longest = max(longest, run)
    return longest


def numbers(text: str) -> int:
    """How many numbers a text has, in digits or words; "two hundred" are two."""
    return len(re.findall(r"\d+(?:[.,]\d+)*", text)) + sum(word in _NUMBER_WORDS for word in words(text))


def all_lowercase(text: str) -> bool:
    """At least one letter, none a capital."""
    return any(letter.isalpha() for letter in text) and text == text.lower()


CHECKS: dict[str, CheckKind] = {
    "ends_with_punctuation": CheckKind("End with a full stop, a question or an exclamation mark.",
                                       lambda text: ends_with(text, ".!?")),
    "asks_a_question": CheckKind("End with a question mark.", lambda text: ends_with(text, "?")),
    "exclaims": CheckKind("End with an exclamation mark.", lambda text: ends_with(text, "!")),
    "contains_comma": CheckKind("Use a comma.", lambda text: "," in text),
    "no_comma": CheckKind("Use no comma.", lambda text: "," not in text),
    "contains_semicolon": CheckKind("Use a semicolon.", lambda text: ";" in text),
    "contains_quote": CheckKind("Use a double quotation mark.", lambda text: any(q in text for q in _QUOTATION_MARKS)),
    "all_lowercase": CheckKind("Use no capital letter.", all_lowercase),
    "contains_number": CheckKind("Mention a number, in digits or as a word.", lambda text: numbers(text) >= 1),
    "minimum_numbers": CheckKind("Mention at least {} numbers, in digits or as words.",
                                 lambda text, least: numbers(text) >= least, 2),
    "minimum_words": CheckKind("Use at least {} words.", lambda text, least: len(words(text)) >= least, 12),
    "maximum_words": CheckKind("Use at least one word and at most {}.",
                               lambda text, most: 1 <= len(words(text)) <= most, 5),
    "minimum_pronouns": CheckKind("Use at least {} personal or possessive pronouns.",
                                  lambda text, least: sum(word in _PRONOUNS for word in words(text)) >= least, 3),
    "contains_word": CheckKind("Use the word {}.", lambda text, word: word in words(text), "god"),
    "starts_with_letter": CheckKind("Begin the first word with the letters {}.",
                                    lambda text, letters: words(text)[:1] != [] and words(text)[0].startswith(letters),
                                    "t"),
    "avoids_letter": CheckKind("Use at least three words, none of them with {}.",
                               lambda text, letter: len(words(text)) >= 3 and letter not in text.lower(), "e"),
    "no_repeated_word": CheckKind("Use at least five words, none of them twice.", no_repeated_word),
    "no_neighbours_alike": CheckKind(
        "Use at least five words, no two neighbours beginning with the same letter.", no_neighbours_alike
    ),
    "alliteration": CheckKind("Begin {} words in a row with the same letter.",
                              lambda text, length: longest_run(text, lambda a, b: a == b) >= length, 3),
    "alphabetical": CheckKind("Begin {} words in a row with letters that climb the alphabet.",
                              lambda text, length: longest_run(text, lambda a, b: a < b) >= length, 4),
}  # fmt: skip


def constraint_named(name: str) -> Constraint:
    """The check `name` or `name:argument`. ValueError for an unknown name or an impossible argument."""
    kind, colon, argument = name.partition(":")
    if kind not in CHECKS:
        near = difflib.get_close_matches(kind, CHECKS, n=1)
        raise ValueError(
            f"there is no constraint {kind}: use some of {', '.join(CHECKS)}"
            + (f". Did you mean {near[0]}?" if near else "")
        )
    return CHECKS[kind].constraint(name, argument if colon else None)


def _example(kind: CheckKind) -> str:
    name = next(name for name, other in CHECKS.items() if other is kind)
    return f"{name}:{kind.default}"
