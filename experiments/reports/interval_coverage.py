"""How often do the intervals that decide on statements cover what they are to cover, at the n in use?

    python -m experiments.reports.interval_coverage --write docs/coverage.md      # a minute

Data are drawn anew in every repetition, the interval of the library is taken, and the truth is looked for in it.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.reports.model_statements import quartile_ratio
from experiments.reports.rlhf_teacher_statements import correlation_between, mean_correlation_within
from experiments.reward_metrics.correlations import (
    Interval,
    correlation_difference,
    fisher_interval,
    student_interval,
)

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Floats]  # mean 0, variance 1
Case = tuple[str, str, int, float, Callable[[np.random.Generator], Interval]]  # interval, data, n, truth, one draw

DRAWS: dict[str, Draw] = {
    "normal": lambda generator, shape: generator.normal(size=shape),
    "uniform": lambda generator, shape: generator.uniform(-math.sqrt(3), math.sqrt(3), size=shape),
    "skewed (exponential)": lambda generator, shape: generator.exponential(size=shape) - 1,
    "heavy tails (t, 5 degrees)": lambda generator, shape: generator.standard_t(5, size=shape) * math.sqrt(0.6),
}
REPETITIONS = 1000
# Correlations of two predictors with the outcome, and with each other.
GAPS = {"r .8 and .75, alike": (0.8, 0.75, 0.95), "r .9 and -.2": (0.9, -0.2, -0.1), "r 0 and 0": (0.0, 0.0, 0.0)}
INTRODUCTION = """# Coverage of the intervals that decide on statements

Share of {repetitions:,} simulated data sets whose "95 %" interval holds the truth; its own standard error is about
{error:.3f}. Made by `python -m experiments.reports.interval_coverage --write docs/coverage.md`. Means: Student's t over
what was drawn independently. Correlations: Fisher's transformation with Student's quantile, which keeps .93 and more
with heavy tails, where the normal quantile covers .89; it is too wide for six normal points, and that is the safe side.
Differences of correlations: Zou's combination of the two. Before, a percentile bootstrap covered .88 to .92 of such
differences, and a bias-corrected bootstrap .91 of means over ten seeds. Skewed data from a few draws are covered less
than they should be.

| Interval | Data | n | coverage |
|---|---|---|---|
"""


def cases() -> Iterator[Case]:
    """Every interval at the n at which statements use it."""
    for name in DRAWS:
        for n in (2, 3, 5, 10, 50):
            yield "mean, Student", name, n, 0.0, partial(mean, name, n)
    for n in (50, 200):
        data = "first, second or neither (.3, .1, .6)"
        yield "mean of paired outcomes, Student", data, n, 0.2, partial(outcomes, n)
    for name in ("normal", "uniform", "heavy tails (t, 5 degrees)"):
        for n in (6, 11, 12):
            yield "Pearson's r = .8", name, n, 0.8, partial(one_correlation, name, n)
        for label, correlations in GAPS.items():
            for n in (6, 11, 12):
                truth = correlations[0] - correlations[1]
                yield f"difference of {label}", name, n, truth, partial(two_correlations, name, n, correlations)
    for n in (6, 9):
        yield "mean r = .8 within 4 policies, over shared reward models", "normal", n, 0.8, partial(within, n)
        yield "r = 0 between n policies, over 4 reward models", "normal", n, 0.0, partial(between_policies, n)
    for n in (9, 15):
        yield "ratio of median times, quartiles", "lognormal, .1", n, 1.0, partial(ratio_of_times, n)


def mean(name: str, n: int, generator: np.random.Generator) -> Interval:
    """Of n draws."""
    return student_interval(DRAWS[name](generator, (n,)))


def outcomes(n: int, generator: np.random.Generator) -> Interval:
    """Of two arms under common random numbers, which is first."""
    return student_interval(generator.choice([1.0, -1.0, 0.0], p=[0.3, 0.1, 0.6], size=n))


def one_correlation(name: str, n: int, generator: np.random.Generator) -> Interval:
    """Of .8."""
    x, noise = DRAWS[name](generator, (2, n))
    return fisher_interval(x, 0.8 * x + 0.6 * noise)


def two_correlations(
    name: str, n: int, correlations: tuple[float, float, float], generator: np.random.Generator
) -> Interval:
    """Of two predictors with one outcome."""
    first, second, between = correlations
    root = np.linalg.cholesky(np.array([[1, between, first], [between, 1, second], [first, second, 1]]))
    return correlation_difference(*(root @ DRAWS[name](generator, (3, n))))


def within(models: int, generator: np.random.Generator) -> Interval:
    """Four policies that share most of what makes a reward model fast."""
    variance, shared = generator.normal(size=(2, models))
    own = math.sqrt(0.9) * shared + math.sqrt(0.1) * generator.normal(size=(4, models))
    return mean_correlation_within(np.tile(variance, (4, 1)), 0.8 * variance + 0.6 * own)[0]


def between_policies(policies: int, generator: np.random.Generator) -> Interval:
    """Policies that are slow or fast, and of high or low variance, with all reward models alike."""
    shared = generator.normal(size=(2, policies, 1))
    variances, gains = math.sqrt(0.8) * shared + math.sqrt(0.2) * generator.normal(size=(2, policies, 4))
    return correlation_between(variances, gains)


def ratio_of_times(rounds: int, generator: np.random.Generator) -> Interval:
    """Two mechanisms of the same median time."""
    rows = []
    for _ in range(2):
        low, middle, high = np.quantile(np.exp(0.1 * generator.normal(size=rounds)), [0.25, 0.5, 0.75])
        rows.append({"seconds": middle, "seconds_q1": low, "seconds_q3": high, "runs": rounds})
    return quartile_ratio(*rows)


def coverage(truth: float, draw: Callable[[np.random.Generator], Interval], repetitions: int, seed: int = 0) -> float:
    """Share of intervals that hold the truth."""
    generator = np.random.default_rng(seed)
    found = (draw(generator) for _ in range(repetitions))
    return sum(interval.low <= truth <= interval.high for interval in found) / repetitions


def table(repetitions: int) -> str:
    """The page, in Markdown."""
    text = INTRODUCTION.format(repetitions=repetitions, error=math.sqrt(0.95 * 0.05 / repetitions))
    for name, data, n, truth, draw in cases():
        text += f"| {name} | {data} | {n} | {coverage(truth, draw, repetitions):.3f} |\n"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--write", type=Path, help="a file; the page is printed otherwise")
    arguments = parser.parse_args()
    text = table(arguments.repetitions)
    if arguments.write:
        arguments.write.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
