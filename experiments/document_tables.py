"""The tables of README and docs, rendered from the published results under outputs/reference/.

    python -m experiments.document_tables        # renders them again in place

A table stands between `<!-- table: <name> -->` and `<!-- end of table -->`. Its name is a key of `TABLES`, or a folder
of published statements such as `rlhf/good_teacher`. Numbers come with the number of runs that they rest on: rounds of a
benchmark, seeds of a training.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments.report import ledger
from experiments.reports.claims import Entry
from experiments.reports.findings_table import number
from experiments.reports.tables import Column, markdown_table
from experiments.runs.files import read_json, write_text

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
TABLE = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end of table -->)", re.S)
MECHANISMS = ("mha", "gqa-4", "gta-4", "mla", "gla-2")
QUERY_LENGTHS = (1, 2, 4)

Row = dict[str, Any]


def render(text: str, published: Path) -> str:
    """`text` with all its tables rendered from `published`. KeyError for a name that is no table."""

    def table(name: str) -> str:
        return statements(published / name) if "/" in name else TABLES[name](published)

    return TABLE.sub(lambda found: f"{found[1]}{table(found[2])}\n{found[3]}", text)


def rows_of(published: Path, place: str, part: str = "rows") -> list[Row]:
    """A list of a published results.json."""
    rows: list[Row] = read_json(published / place / "results.json")[part]
    return rows


def short(value: float) -> str:
    """Two digits after the point below ten, one above: 0.48, 1.86, 25.3."""
    return f"{value:.2f}" if abs(value) < 10 else f"{value:,.1f}"


def median_and_range(values: Sequence[float]) -> str:
    """`0.48 (0.36 to 0.58)`."""
    return f"{short(statistics.median(values))} ({short(min(values))} to {short(max(values))})"


def n_to_n(counts: Iterable[int]) -> str:
    """`9`, or `3 to 9`."""
    few, *more = sorted(set(counts))
    return f"{few:,} to {more[-1]:,}" if more else f"{few:,}"


def by_name(rows: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    """Rows of each mechanism, in order of their first."""
    rows = list(rows)
    return [(name, [r for r in rows if r["mechanism"] == name]) for name in dict.fromkeys(r["mechanism"] for r in rows)]


# Training ---------------------------------------------------------------------------------------------------------


def mechanisms(published: Path) -> str:
    """Perplexity of trained models: mean and standard deviation over seeds."""

    def perplexity(heading: str, held_out: str, digits: int) -> Column[Row]:
        def cell(arm: Row) -> str:
            values = list(arm["by_seed"][f"eval/{held_out}/perplexity"].values())
            return f"{statistics.fmean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"

        return Column(heading, cell)

    columns: list[Column[Row]] = [
        Column("attention", "arm"),
        Column("cache bytes per token and layer", "cache_bytes_per_token_per_layer", "{:.0f}"),
        perplexity("perplexity, held-out books", "web_bible", 1),
        perplexity("perplexity, docstrings", "python_docstrings", 0),
        Column("seeds", "seeds"),
    ]
    arms = read_json(published / "train" / "mechanisms" / "comparison.json")["arms"]
    return markdown_table(
        columns, sorted(arms, key=lambda arm: ("mha", "gqa", "gta", "mla", "gla").index(arm["mechanism"]))
    )


# One layer's attention --------------------------------------------------------------------------------------------


def attention_rows(published: Path) -> list[Row]:
    """Measured cells of three shapes at two contexts, batch 8, without the comparison with flex attention."""
    places = sorted((published / "bench").glob("attention_*_*/results.json"))
    rows = [row for place in places if not place.parent.name.endswith("flex") for row in read_json(place)["rows"]]
    return [row for row in rows if row["status"] == "measured"]


def of_sizes(rows: Iterable[Row], mechanism: str, query_length: int, dtype: str = "fp32") -> list[dict[str, Row]]:
    """For each size (shape and context) the rows of a cell by kernel."""
    sizes: dict[tuple[str, int], dict[str, Row]] = {}
    for row in rows:
        if (row["mechanism"], row["query_length"], row["dtype"]) == (mechanism, query_length, dtype):
            sizes.setdefault((row["model"], row["context"]), {})[row["kernel"]] = row
    return [sizes[size] for size in sorted(sizes)]


def attention(published: Path) -> str:
    """Share of the machine's limit, and times the faster of SDPA and grouped matmul: median and range over sizes."""
    rows = attention_rows(published)

    def limit(query_length: int) -> Column[str]:
        def cell(mechanism: str) -> str:
            return median_and_range(
                [size["cpu"]["fraction_of_limit"] for size in of_sizes(rows, mechanism, query_length)]
            )

        return Column(f"query length {query_length}: of limit", cell)

    def stock(query_length: int) -> Column[str]:
        def cell(mechanism: str) -> str:
            sizes = of_sizes(rows, mechanism, query_length)
            return median_and_range(
                [
                    min(row["seconds"] for kernel, row in size.items() if kernel != "cpu") / size["cpu"]["seconds"]
                    for size in sizes
                ]
            )

        return Column("times stock", cell)

    def rounds(mechanism: str) -> str:
        cells = [size for query_length in QUERY_LENGTHS for size in of_sizes(rows, mechanism, query_length)]
        return n_to_n(row["runs"] for size in cells for row in size.values())

    columns: list[Column[str]] = [Column("fp32 storage", lambda mechanism: mechanism.upper())]
    for query_length in QUERY_LENGTHS:
        columns += [limit(query_length), stock(query_length)]
    return markdown_table([*columns, Column("rounds per cell", rounds)], MECHANISMS)


def attention_ratios(published: Path) -> str:
    """Time over time, of our kernel: median and range over sizes."""
    rows = attention_rows(published)
    Pair = tuple[str, tuple[str, str], tuple[str, str]]
    pairs: list[Pair] = [
        ("GQA-4 over GTA-4, fp32 (bytes: 1.78)", ("gqa-4", "fp32"), ("gta-4", "fp32")),
        ("GQA-4 over GTA-4, bf16", ("gqa-4", "bf16"), ("gta-4", "bf16")),
        ("MLA over GLA-2, fp32 (paper, H100: 1.2 and 2)", ("mla", "fp32"), ("gla-2", "fp32")),
        ("fp32 over bf16 storage, GQA-4", ("gqa-4", "fp32"), ("gqa-4", "bf16")),
    ]

    def both(pair: Pair, query_length: int) -> list[tuple[Row, Row]]:
        first, second = (of_sizes(rows, name, query_length, dtype) for name, dtype in pair[1:])
        return [(a["cpu"], b["cpu"]) for a, b in zip(first, second, strict=True)]

    def ratio(query_length: int) -> Column[Pair]:
        def cell(pair: Pair) -> str:
            return median_and_range([a["seconds"] / b["seconds"] for a, b in both(pair, query_length)])

        return Column(f"query length {query_length}", cell)

    def rounds(pair: Pair) -> str:
        return n_to_n(row["runs"] for length in QUERY_LENGTHS for size in both(pair, length) for row in size)

    columns: list[Column[Pair]] = [
        Column("time over time", lambda pair: pair[0]),
        *(ratio(query_length) for query_length in QUERY_LENGTHS),
        Column("rounds per cell", rounds),
    ]
    return markdown_table(columns, pairs)


# Whole models and serving -----------------------------------------------------------------------------------------


def generate(published: Path) -> str:
    """Time per decoding step of the faster of Llama's two caches over ours, with the fewest rounds behind it."""
    rows = rows_of(published, "bench/generate")

    def column(batch: int) -> Column[int]:
        def cell(context: int) -> str:
            same = {r["system"]: r for r in rows if (r["context"], r["batch"]) == (context, batch)}
            peer = min((same[name] for name in ("Llama", "Llama, compiled")), key=lambda row: row["step_seconds"])
            runs = min(peer["runs"], same["rl-exp"]["runs"])
            return f"{short(peer['step_seconds'] / same['rl-exp']['step_seconds'])} (n = {runs})"

        return Column(f"batch {batch}", cell)

    contexts = sorted({row["context"] for row in rows})
    batches = sorted({row["batch"] for row in rows})
    return markdown_table([Column[int]("context", lambda context: context), *map(column, batches)], contexts)


def speculative(published: Path) -> str:
    """Speculative over plain decoding, against both plain measurements of the run."""
    rows = rows_of(published, "bench/speculative")
    pairs = [{row["system"]: row for row in same} for _, same in by_name(rows)]
    plain, fast = "rl-exp", "rl-exp speculative"
    columns: list[Column[dict[str, Row]]] = [
        Column("attention", lambda pair: pair[plain]["mechanism"].upper()),
        Column("plain, tokens/s", lambda pair: f"{pair[plain]['tokens_per_second']:,.0f}"),
        Column("plain measured again", lambda pair: f"{pair[fast]['plain_tokens_per_second']:,.0f}"),
        Column("speculative, tokens/s", lambda pair: f"{pair[fast]['tokens_per_second']:,.0f}"),
        Column(
            "times plain",
            lambda pair: " to ".join(
                short(pair[fast]["tokens_per_second"] / value)
                for value in sorted(
                    (pair[plain]["tokens_per_second"], pair[fast]["plain_tokens_per_second"]), reverse=True
                )
            ),
        ),
        Column("accepted", lambda pair: f"{pair[fast]['acceptance_rate']:.0%}"),
        Column("runs (plain)", lambda pair: pair[plain]["runs"]),
    ]
    return markdown_table(columns, pairs)


def serving(published: Path) -> str:
    """A column per mechanism."""
    rows = rows_of(published, "bench/serving")
    lines: dict[str, Callable[[Row], str]] = {
        "tokens that fit": lambda row: f"{row['budget_tokens']:,}",
        "tokens per second": lambda row: f"{row['tokens_per_second']:,.0f}",
        "first token, ms": lambda row: f"{1e3 * row['first_token_p50']:,.0f}",
        "last token, ms": lambda row: f"{1e3 * row['end_to_end_p50']:,.0f}",
        "rounds": lambda row: str(row["runs"]),
    }
    return transposed(rows, lines)


def transposed(rows: Sequence[Row], lines: dict[str, Callable[[Row], str]]) -> str:
    """A column per mechanism, a line per quantity."""

    def column(row: Row) -> Column[str]:
        return Column(row["mechanism"].upper(), lambda name: lines[name](row))

    return markdown_table([Column[str]("", lambda name: name), *map(column, rows)], list(lines))


def tensor_parallel(published: Path) -> str:
    """Cache bytes per token, layer and rank that were allocated, bf16."""
    rows = rows_of(published, "bench/tensor_parallel_4", "bytes_per_device")

    def column(mechanism: str, same: list[Row]) -> Column[int]:
        stored = {row["tensor_parallel"]: row["bytes"] for row in same}
        return Column(mechanism.upper(), lambda ranks: f"{stored[ranks]:,.0f}")

    ranks = sorted({row["tensor_parallel"] for row in rows})
    return markdown_table([Column[int]("ranks", lambda n: n), *(column(*group) for group in by_name(rows))], ranks)


# Predictions ------------------------------------------------------------------------------------------------------


def plan_llama_70b(published: Path) -> str:
    """Eight devices, batch 64: computed, not measured."""
    rows = [row for row in rows_of(published, "bench/plan_llama_70b") if row["devices"] == 8]
    at = {(row["mechanism"], row["context"]): row for row in rows}

    def ceiling(row: Row, name: str) -> str:
        return f"{row[name]:,.0f}" if row.get(name) else "does not fit"

    def long(row: Row) -> Row:
        return at[row["mechanism"], 32768]

    lines: dict[str, Callable[[Row], str]] = {
        "weights, GB per device": lambda row: f"{row['weight_bytes_per_device'] / 1e9:.1f}",
        "cache, kB per token and device": lambda row: f"{row['cache_bytes_per_token'] / 1e3:.1f}",
        "sequences of 32K that fit": lambda row: f"{long(row)['largest_batch']:,}",
        "tokens/s at most, with that many of 32K": lambda row: ceiling(
            long(row), "tokens_per_second_ceiling_at_largest"
        ),
        "tokens/s at most, 64 of 4K": lambda row: ceiling(row, "tokens_per_second_ceiling"),
        "cache outweighs weights from (batch 64)": lambda row: f"{row['cache_equals_weights_context']:,}",
    }
    return transposed([row for row in rows if row["context"] == 4096], lines)


def plan_deepseek(published: Path) -> str:
    """The paper's serving figures and our ceilings."""
    rows = rows_of(published, "bench/plan_deepseek", "published")
    keys = ("prompt", "output", "concurrency")
    latent = [row for row in rows if row["mechanism"].startswith("gla")]
    placement = {"gla-8": (8, 1), "gla-4": (4, 2), "gla-2": (2, 4)}

    def partner(row: Row) -> Row:
        """MLA on the same placement, or on the only one that was published."""
        same = [r for r in rows if r["mechanism"] == "mla" and all(r[key] == row[key] for key in keys)]
        fitting = [r for r in same if (r["tensor_parallel"], r["data_parallel"]) == placement[row["mechanism"]]]
        return (fitting or same)[0]

    def ratio(name: str) -> Callable[[Row], str]:
        return lambda row: short(row[name] / partner(row)[name])

    def placed(row: Row) -> str:
        return f"{row['mechanism'].upper()} {row['tensor_parallel']} x {row['data_parallel']}"

    def fit(row: Row) -> str:
        return "all" if row["all_fit"] else str(row["largest_batch"])

    def reached(row: Row) -> str:
        return f"{row['published_tokens_per_second']:,} ({row['share_of_ceiling']:.2f})"

    columns: list[Column[Row]] = [
        Column("prompts, outputs", lambda row: LENGTHS.get((row["prompt"], row["output"]), "")),
        Column("placement", lambda row: f"{placed(row)}, {placed(partner(row))}"),
        Column("at once", "concurrency"),
        Column("fit: GLA, MLA", lambda row: f"{fit(row)}, {fit(partner(row))}"),
        Column("GLA", reached),
        Column("MLA", lambda row: reached(partner(row))),
        Column("GLA over MLA, published", ratio("published_tokens_per_second")),
        Column("by the ceilings", ratio("tokens_per_second_ceiling")),
    ]
    return markdown_table(columns, latent)


LENGTHS = {(8192, 4096): "8K, 4K", (32768, 4096): "32K, 4K", (65536, 2048): "up to 131K, 4K"}  # the last by its means


# Rewards ----------------------------------------------------------------------------------------------------------


def controlled(published: Path) -> str:
    """How many statements of each controlled experiment came out how, and the seeds or settings behind each."""

    def tested(place: Path) -> list[Row]:
        return [item for item in read_json(place) if item["kind"] != "check"]

    def count(verdict: str) -> Column[Path]:
        return Column(verdict, lambda place: sum(item["verdict"] == verdict for item in tested(place)))

    columns: list[Column[Path]] = [
        Column("`experiment=`", lambda place: f"`{place.parent.name}`"),
        *(count(verdict) for verdict in ("reproduced", "inconclusive", "not reproduced")),
        Column("checks of the code", lambda place: len(read_json(place)) - len(tested(place))),
        Column("n", lambda place: n_to_n(item["n"] for item in read_json(place))),
    ]
    return markdown_table(columns, sorted((published / "controlled").glob("*/statements.json")))


def statements(place: Path) -> str:
    """All statements that a published result was judged on."""

    def text(name: str) -> Callable[[Row], str]:
        return lambda item: str(item[name]).replace("|", "\\|")

    def effect(item: Row) -> str:
        if item["effect"] is None:
            return "not measured"
        low, high = item["interval"] or (None, None)
        if low is None or high is None:
            return f"{number(item['effect'])}, no interval"
        interval = "(exact)" if low == high else f"[{number(low)}, {number(high)}]"
        return f"{number(item['effect'])} {interval}"

    def drawn(item: Row) -> str:
        return item["sample"] or ("exact" if item["unit"] == "exact" else f"{item['n']:,} {item['unit']}")

    def verdict(item: Row) -> str:
        words = [item["verdict"], "" if item["kind"] == "paper" else item["kind"]]
        return ", ".join([word for word in words if word] + (["exploratory"] if day <= item["ruled"] else []))

    day = latest_day(place)
    columns: list[Column[Row]] = [
        Column("statement", text("statement")),
        Column("effect [95 % interval]", effect),
        Column("n", drawn),
        Column("verdict", verdict),
        Column("what was measured", text("measured")),
    ]
    return markdown_table(columns, read_json(place / "statements.json"))


def claims(published: Path) -> str:
    """The ledger of what is published: each claim with its verdict and the scale of its evidence."""

    def scale(entry: Entry) -> str:
        return "; ".join(dict.fromkeys(item.scale for item in entry.evidence if item.place is not None)) or "none yet"

    columns: list[Column[Entry]] = [
        Column("claim", lambda entry: entry.title),
        Column("paper", lambda entry: entry.paper.removesuffix(")").rpartition("(")[2]),
        Column("verdict", lambda entry: f"**{entry.verdict}**" + (f" ({entry.summary})" if entry.counted else "")),
        Column("measured on", scale),
    ]
    return markdown_table(columns, ledger(published / "no runs"))


def latest_day(place: Path) -> str:
    """The day on which the runs of a published result ended: statements ruled on it or later are exploratory."""
    runs = read_json(place / "provenance.json")["runs"]
    ended = [run["ended"] for run in (runs if isinstance(runs, list) else [runs])]
    return max(day for item in ended for day in (item if isinstance(item, list) else [item]))[:10]


def partial_credit_pairs(published: Path) -> str:
    """Increase of the share of outputs that meet both constraints, by the reward."""
    arms = read_json(published / "rlhf" / "partial_credit" / "comparison.json")["arms"]

    def column(heading: str, arm: str) -> Column[str]:
        def cell(setting: str) -> str:
            found = next(row for row in arms if (row["setting"], row["arm"]) == (setting, arm))
            item = found["ground_truth_increase/steps_100"]
            interval = "" if item["low"] is None else f" [{item['low']:+.2f}, {item['high']:+.2f}]"
            return f"{item['mean']:+.2f}{interval} (n = {len(found['seeds'])})"

        return Column(heading, cell)

    settings = list(dict.fromkeys(row["setting"] for row in arms))
    columns = [
        Column[str]("pair", lambda setting: setting.replace("_", " ")),
        column("binary", "binary_credit"),
        column("partial", "partial_credit"),
    ]
    return markdown_table(columns, settings)


def trl(published: Path) -> str:
    """Our completions per second over trl's: medians of rounds, with quartiles for whole steps."""
    document = read_json(published / "rlhf" / "trl" / "results.json")
    rows = {(row["policy"], row["algorithm"]): row for row in document["rows"]}

    def column(part: str, policy: str) -> Column[str]:
        def cell(algorithm: str) -> str:
            row = rows[policy, algorithm]
            low, high = row[f"{part}_ratio_quartiles"]
            return f"{short(row[f'{part}_ratio'])} ({short(low)} to {short(high)})"

        return Column(f"{'whole step' if part == 'whole' else part}, {policy}", cell)

    columns = [
        Column[str]("", lambda algorithm: algorithm),
        *(column(part, policy) for part in ("whole", "rollouts") for policy in ("7M", "1M")),
        Column[str]("rounds", lambda algorithm: document["settings"]["rounds"]),
    ]
    return markdown_table(columns, list(dict.fromkeys(row["algorithm"] for row in document["rows"])))


TABLES: dict[str, Callable[[Path], str]] = {
    "claims": claims,
    "mechanisms": mechanisms,
    "attention": attention,
    "attention_ratios": attention_ratios,
    "generate": generate,
    "speculative": speculative,
    "serving": serving,
    "tensor_parallel": tensor_parallel,
    "plan_llama_70b": plan_llama_70b,
    "plan_deepseek": plan_deepseek,
    "controlled": controlled,
    "partial_credit_pairs": partial_credit_pairs,
    "trl": trl,
}


def main() -> None:
    """Render the tables of all documents in place."""
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        rendered = render(text, ROOT / "outputs" / "reference")
        if rendered != text:
            write_text(document, rendered)
            print(f"{document.relative_to(ROOT)}: rendered again")


if __name__ == "__main__":
    main()
