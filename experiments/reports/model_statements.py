"""What training and benchmarks say of Hardware-Efficient Attention for Fast Decoding (arXiv 2505.21487).

Each statement, and the function that finds it in comparison.json of a sweep of `rl-exp train` or in results.json of
`rl-exp bench`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from experiments.reward_metrics.correlations import Interval, no_interval, student_interval
from experiments.reward_metrics.statements import Finding, Kind, Statement, computed

Row = Mapping[str, Any]
Measure = Callable[[Statement, Any], list[Finding]]

SOURCE = "Hardware-Efficient Attention for Fast Decoding, "
FIRST = "2026-11-25"
BY_ROUND = "2026-11-29"
HELD_OUT = "eval/web_bible/loss"
# Of fewer rounds the quartiles are too narrow for a ratio; of nine they cover .94 (docs/coverage.md).
FEWEST_ROUNDS = 9


def arms_of(document: Any) -> dict[str, Row]:
    """The arms of comparison.json by mechanism; none where it is damaged."""
    return {str(row.get("mechanism")): row for row in rows_of(document, "arms")}


def rows_of(document: Any, name: str) -> list[Row]:
    """A list of rows in a document; empty where there is none."""
    rows = document.get(name) if isinstance(document, Mapping) else None
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def loss_gap(name: str, against: str) -> Measure:
    """Held-out loss of one mechanism minus that of another, within seeds; without numbers by seed no interval."""

    def measure(statement: Statement, document: Any) -> list[Finding]:
        arms = arms_of(document)
        if name not in arms or against not in arms:
            return []
        first, second = arms[name], arms[against]
        by_seed = [row.get("by_seed", {}).get(HELD_OUT, {}) for row in (first, second)]
        gaps = [float(by_seed[0][seed]) - float(by_seed[1][seed]) for seed in sorted(set(by_seed[0]) & set(by_seed[1]))]
        effect = student_interval(gaps) if gaps else no_interval(float(first[HELD_OUT]) - float(second[HELD_OUT]))
        return [statement.found(effect, f"{HELD_OUT}: {name} minus {against}, within seeds")]

    return measure


def cache_ratio(statement: Statement, document: Any) -> list[Finding]:
    """Bytes per token and layer, GTA over GQA."""
    arms, key = arms_of(document), "cache_bytes_per_token_per_layer"
    if not {"gta", "gqa"} <= set(arms):
        return []
    return [statement.found(computed(float(arms["gta"][key]) / float(arms["gqa"][key])), f"{key}: gta over gqa")]


def split_bytes_ratio(statement: Statement, document: Any) -> list[Finding]:
    """Bytes of the cache on each of two devices, GLA over MLA."""
    rows = [row for row in rows_of(document, "bytes_per_device") if row.get("tensor_parallel") == 2]
    return [
        statement.found(
            computed(float(first["bytes"]) / float(second["bytes"])), "bytes on each of two devices: gla over mla"
        )
        for first, second in pairs_of(rows, "gla", "mla")
    ]


def time_ratio(name: str, against: str, query_length: int) -> Measure:
    """Time of one mechanism over another's from memory: rows of the CPU kernel, longest context, largest batch."""
    same = ("model", "dtype", "batch", "context", "page_size", "threads")

    def measure(statement: Statement, document: Any) -> list[Finding]:
        rows = [
            row
            for row in rows_of(document, "rows")
            if (row.get("kernel"), row.get("query_length"), row.get("status")) == ("cpu", query_length, "measured")
        ]
        for key in ("context", "batch"):
            most = max((row[key] for row in rows if is_mechanism(row, name)), default=None)
            rows = [row for row in rows if row[key] == most]
        return [
            statement.found(
                quartile_ratio(first, second),
                f"seconds at query length {query_length}: {first['mechanism']} over {second['mechanism']}; interval: "
                f"widest ratio of quartiles over rounds on one machine, from {FEWEST_ROUNDS} rounds on",
                case=", ".join(str(first[key]) for key in same if first.get(key) is not None),
            )
            for first, second in pairs_of(rows, name, against, same)
        ]

    return measure


def quartile_ratio(first: Row, second: Row) -> Interval:
    """Ratio of medians with the widest ratio of quartiles; no interval of fewer than nine rounds."""
    value, n = float(first["seconds"]) / float(second["seconds"]), int(min(first["runs"], second["runs"]))
    if n < FEWEST_ROUNDS:
        return no_interval(value, n)
    low = float(first["seconds_q1"]) / float(second["seconds_q3"])
    return Interval(value, low, float(first["seconds_q3"]) / float(second["seconds_q1"]), n)


def served_ratio(name: str, against: str, column: str) -> Measure:
    """A number of `bench mode=serving`, one mechanism over another, within rounds: settings are served in turn."""
    same = ("model", "dtype", "threads", "page_size", "largest_batch", "budget_bytes")

    def measure(statement: Statement, document: Any) -> list[Finding]:
        findings = []
        measured = [row for row in rows_of(document, "rows") if row.get("status") == "measured"]
        for first, second in pairs_of(measured, name, against, same):
            rounds = [row.get(f"{column}_by_round") for row in (first, second)]
            if all(rounds):
                effect = student_interval([float(a) / float(b) for a, b in zip(*rounds, strict=True)])
            else:  # of an earlier version: a ratio of medians, and nothing decided
                effect = no_interval(float(first[column]) / float(second[column]))
            case = ", ".join(str(first[key]) for key in same if first.get(key) is not None)
            findings.append(statement.found(effect, f"{column}: {name} over {against}, within rounds", case=case))
        return findings

    return measure


def pairs_of(rows: Sequence[Row], name: str, against: str, same: Sequence[str] = ()) -> Iterator[tuple[Row, Row]]:
    """Rows of two mechanisms that have the same values elsewhere; each of the first with one of the second."""
    for first in rows:
        if not is_mechanism(first, name):
            continue
        for second in rows:
            if is_mechanism(second, against) and all(first.get(key) == second.get(key) for key in same):
                yield first, second
                break


def is_mechanism(row: Row, name: str) -> bool:
    """`gla-2` is a gla."""
    return str(row.get("mechanism")).partition("-")[0] == name


# fmt: off
STATEMENTS = (
    Statement(id="train.gta_loss", unit="seeds", ruled=FIRST, measured_in="nats per token",
        measure=loss_gap("gta", "gqa"), at_most=0.01, source=SOURCE + "Tables 2 and 11 to 15",
        says="GTA's held-out loss is above GQA's by at most .01 nats per token (1 % of perplexity)"),
    Statement(id="train.gta_cache", kind=Kind.check, unit="", ruled=FIRST, measure=cache_ratio, at_most=0.6,
        source=SOURCE + "Table 5",
        says="GTA's cache is at most .6 of GQA's"),
    Statement(id="train.gla_loss", unit="seeds", ruled=FIRST, measured_in="nats per token",
        measure=loss_gap("gla", "mla"), at_most=0.01, source=SOURCE + "Tables 2 and 11 to 15",
        says="GLA's held-out loss is above MLA's by at most .01 nats per token (1 % of perplexity)"),
    Statement(id="bench.gla_split", kind=Kind.check, unit="", ruled=FIRST, measure=split_bytes_ratio, at_most=0.6,
        source=SOURCE + "Tables 5 and 23",
        says="on two devices GLA caches at most .6 of MLA's bytes on each"),
    Statement(id="bench.mla_over_gla_two_queries", unit="rounds", ruled=FIRST, measure=time_ratio("mla", "gla", 2),
        at_least=1.2, source=SOURCE + "section 5.3, Figures 4 and 15",
        says="at query length 2, from memory, MLA takes at least 1.2 times GLA's time"),
    Statement(id="bench.mla_over_gla_one_query", unit="rounds", ruled="2026-11-30", measure=time_ratio("mla", "gla", 1),
        at_least=1.2, source=SOURCE + "section 5.3, Figures 4 and 15",
        says="at query length 1, from memory, MLA takes at least 1.2 times GLA's time"),
    Statement(id="bench.gqa_over_gta", kind=Kind.ours, unit="rounds", ruled=FIRST, measure=time_ratio("gqa", "gta", 1),
        at_least=1.0, source="not in the paper, which has no GTA kernel",
        says="at query length 1 GQA takes at least GTA's time"),
    Statement(id="bench.gla_throughput", unit="rounds", ruled=BY_ROUND,
        measure=served_ratio("gla", "mla", "tokens_per_second"), at_least=1.0, source=SOURCE + "appendix B.6",
        says="GLA serves at least as many tokens per second as MLA"),
    Statement(id="bench.gla_latency", unit="rounds", ruled=BY_ROUND,
        measure=served_ratio("gla", "mla", "end_to_end_p50"), at_most=1.0, source=SOURCE + "appendix B.6",
        says="the median time from a request's arrival to its last token is no longer with GLA than with MLA"),
    Statement(id="bench.gta_throughput", kind=Kind.ours, unit="rounds", ruled=BY_ROUND,
        measure=served_ratio("gta", "gqa", "tokens_per_second"), at_least=1.0, source="not in the paper",
        says="GTA serves at least as many tokens per second as GQA at the same budget"),
)
# fmt: on
# What the rows of one run of `rl-exp bench` are judged by, by mode.
OF_MODE = {
    "attention": (
        "bench.gla_split",
        "bench.mla_over_gla_two_queries",
        "bench.mla_over_gla_one_query",
        "bench.gqa_over_gta",
    ),
    "serving": ("bench.gla_throughput", "bench.gla_latency", "bench.gta_throughput"),
}


def findings_on(mode: str, document: Any) -> list[Finding]:
    """What a run of `rl-exp bench` shows of the paper's statements: those for which it has the rows."""
    judged = [item for item in STATEMENTS if item.id in OF_MODE.get(mode, ())]
    return [finding for item in judged for finding in item.found_in(document)]
