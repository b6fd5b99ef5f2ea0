"""The claims of Hardware-Efficient Attention for Fast Decoding (arXiv 2505.21487), beside what one machine shows.

Every figure "here" comes from the rows of a run; every reason from its roofline: which of bandwidth and arithmetic
bounds a mechanism, and what ratio of times the two floors predict.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]

OVERHEAD_SHARE = 0.3  # of the limit: below, launching and bookkeeping take longer than bytes or operations

# Bytes per token, layer and device of the XL model in bf16 on 1, 2 and 4 devices (Tables 5 and 15).
PAPER_DEVICE_BYTES = {
    "mha": (8192, 4096, 2048),
    "gqa-4": (2048, 1024, 512),
    "gta-4": (1152, 640, 384),
    "gla-2": (1152, 640, 640),
    "mla": (1152, 1152, 1152),
}


def paper_claims(rows: Sequence[Row], devices: Sequence[Row]) -> list[Row]:
    """Claim, the paper's figure, this machine's, and why they agree or not.

    `rows` are attention rows: those of the first kernel, of the longest context and largest batch from memory, of the
    first page size and number of threads count. `devices` are the bytes of the paper's XL model.
    """
    claims = [_device_claim(devices)] if devices else []
    claims += _byte_claims(devices)
    measured = [row for row in rows if row["status"] == "measured" and row["kernel"] == rows[0]["kernel"]]
    measured = [row for row in measured if row["residence"] == "memory"] or measured
    for name in ("context", "batch"):
        most = max((row[name] for row in measured), default=0)
        measured = [row for row in measured if row[name] == most]
    for name in ("page_size", "threads"):
        measured = [row for row in measured if row[name] == measured[0][name]]
    claims += _intensity_claim(measured)
    claims += _speed_claim(
        measured,
        1,
        "gta",
        "gqa",
        "GTA decodes faster than GQA, query length 1",
        "no GTA kernel measured (bytes: 1.78x)",
    )
    claims += _speed_claim(measured, 1, "gla", "mla", "GLA decodes faster than MLA, query length 1", "1.2x (H100)")
    claims += _speed_claim(measured, 2, "gla", "mla", "GLA decodes faster than MLA, query length 2", "2x (H100)")
    return claims


def _device_claim(devices: Sequence[Row]) -> Row:
    found = {(row["mechanism"], row["tensor_parallel"]): row["bytes"] for row in devices}
    wanted = {
        (mechanism, size): number
        for mechanism, numbers in PAPER_DEVICE_BYTES.items()
        for size, number in zip((1, 2, 4), numbers, strict=True)
    }
    equal = [key for key, number in wanted.items() if found.get(key) == number]
    other = [f"{key[0]} on {key[1]}: {found.get(key)}" for key in wanted if key not in equal]
    return {
        "claim": "cache bytes per token, layer and device, XL on 1, 2, 4 devices",
        "paper": "Table 15",
        "here": f"{len(equal)} of {len(wanted)} figures equal",
        "note": "; ".join(other) or "allocated caches. Arithmetic, not speed: it holds on every machine",
    }


def _byte_claims(devices: Sequence[Row]) -> list[Row]:
    found = {(row["mechanism"], row["tensor_parallel"]): row["bytes"] for row in devices}
    if ("gta-4", 1) not in found or ("gqa-4", 1) not in found:
        return []
    return [
        {
            "claim": "GTA needs about half of GQA's cache",
            "paper": "0.56 (XL)",
            "here": f"{found['gta-4', 1] / found['gqa-4', 1]:.2f}",
            "note": f"on 4 devices {found['gta-4', 4] / found['gqa-4', 4]:.2f}: every device holds the RoPE key",
        },
        {
            "claim": "GLA splits where MLA is copied",
            "paper": "640 / 1152 bytes on 2 devices",
            "here": f"{found['gla-2', 2]:.0f} / {found['mla', 2]:.0f}",
            "note": "two latent heads: on 4 devices GLA-2 splits no further",
        },
    ]


def _intensity_claim(rows: Sequence[Row]) -> list[Row]:
    pairs = _pairs(rows, 1, "gta", "gqa")
    if not pairs:
        return []
    ratios = (f"{label} {first['intensity'] / second['intensity']:.2f}x".strip() for label, first, second in pairs)
    return [
        {
            "claim": "GTA doubles the operations per byte of GQA",
            "paper": "2x (limit, without the RoPE key)",
            "here": ", ".join(ratios),
            "note": "the RoPE key, queries and outputs are counted here",
        }
    ]


def _speed_claim(rows: Sequence[Row], query_length: int, name: str, against: str, claim: str, paper: str) -> list[Row]:
    """Time of `against` over time of `name`, by storage; predicted is the same ratio of their floors."""
    pairs = _pairs(rows, query_length, name, against)
    if not pairs:
        return []
    here = [f"{label} {second['seconds'] / first['seconds']:.2f}x".strip() for label, first, second in pairs]
    predicted = [f"{second['floor_seconds'] / first['floor_seconds']:.2f}x" for _, first, second in pairs]
    label, first, second = pairs[0]
    ridge = first["peak_flops"] / first["bandwidth"]
    note = (
        f"the floors predict {', '.join(dict.fromkeys(predicted))}; {label}{': ' if label else ''}ridge "
        f"{ridge:.0f} FLOP/B, "
        f"{first['mechanism'].upper()} has {first['intensity']:.1f}, {second['mechanism'].upper()} "
        f"{second['intensity']:.1f}: {_why(first, second)}"
    )
    return [{"claim": claim, "paper": paper, "here": ", ".join(here), "note": note}]


def _why(first: Row, second: Row) -> str:
    """What the ratio of times rests on here."""
    if max(first["fraction_of_limit"], second["fraction_of_limit"]) < OVERHEAD_SHARE:
        shares = f"{first['fraction_of_limit']:.0%} and {second['fraction_of_limit']:.0%}"
        return f"limited by overhead (both far from their floors: {shares} of the limit), so neither count decides"
    flops, moved = second["flops"] / first["flops"], second["bytes"] / first["bytes"]
    if first["bound"] == second["bound"] == "compute":
        return f"bound by arithmetic, so the FLOPs count ({flops:.2f}x), not the bytes ({moved:.2f}x)"
    if first["bound"] == second["bound"]:
        return f"bound by memory, so the bytes count ({moved:.2f}x)"
    bound = "memory" if first["bound"] == "memory" else "arithmetic"
    other = "arithmetic" if bound == "memory" else "memory"
    return f"the first is bound by {bound}, the second by {other}"


def _pairs(rows: Sequence[Row], query_length: int, name: str, against: str) -> list[tuple[str, Row, Row]]:
    """Rows of two mechanisms that agree in all else; the label says what varies."""
    pairs: list[tuple[str, Row, Row]] = []
    keys = ("model", "dtype")
    varying = [key for key in keys if len({row.get(key) for row in rows}) > 1]
    for first in rows:
        if first["query_length"] != query_length or first["mechanism"].partition("-")[0] != name:
            continue
        for second in rows:
            same = all(first.get(key) == second.get(key) for key in (*keys, "query_length"))
            if same and second["mechanism"].partition("-")[0] == against:
                label = " ".join(str(first.get(key)) for key in varying)
                pairs.append((label, first, second))
                break
    return pairs
