"""What figures show, in words: for those who cannot see them, and under them on the page of `rl-exp report html`.

A run keeps them in figures/captions.json: how many runs, seeds or rounds a picture rests on is known when it is drawn.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from experiments.runs.files import read_json, write_json

CAPTIONS = {
    "perplexity_against_cache": "Held-out perplexity against cache bytes per token and layer, a point per attention "
    "mechanism.",
    "throughput_against_context": "Tokens per second against context length, a line per attention mechanism.",
    "roofline": "Operations per second against arithmetic intensity, points under the machine's ceilings.",
    "bytes_per_device": "Cache bytes per token, layer and device by mechanism, for growing numbers of devices.",
    "tokens_per_second_ceiling": "Ceiling on tokens per second against context length, a line per attention mechanism.",
    "serving": "Throughput and latency of a server by attention mechanism at one cache budget.",
    "training_curves": "Proxy and ground truth reward over policy-gradient steps, a line per reward model.",
    "over_optimisation": "Proxy and ground truth reward against the root of KL divergence, a line per reward model.",
    "increase_against_variance": "Reward increases against reward variance before training, a point per reward model.",
    "increase_against_accuracy": "Reward increases against accuracy before training, a point per reward model.",
    "correlations": "Correlations of properties of reward models with the increases of proxy and ground truth reward.",
    "variance_against_accuracy": "Reward variance against on-policy and harm-aware accuracy, a point per reward model.",
    "properties": "All properties of all reward models; shades compare the reward models of a row.",
    "training": "Rewards over training, a line per reward model.",
    "trajectories": "Ground truth reward over updates, trained on the ground truth and on the proxy.",
    "phase_diagram": "Where training on the proxy is faster than on the ground truth: initial probability, reward of "
    "the mediocre output, and feature angle.",
    "exponents": "Time to reach the best output against its initial probability, on both rewards, with slopes.",
    "flatness": "Gradient norm and time to a fixed gain against reward variance.",
    "policy_dependence": "Time to a fixed gain of two reward models on two families of policies.",
    "confusion": "Predicted categories of reward errors against the measured effect on ground truth reward.",
    "penalty": "Penalty of partial credit over binary credit, by shared features and initial success rates.",
    "sampled": "Share of seeds in which each kind of credit wins under sampled gradients.",
    "curves": "Metrics over training, a line per arm.",
}


def caption_of(figure: Path, captions: dict[str, str] | None = None) -> str:
    """Its run's own caption (`captions`, else what lies beside it), or the words for figures of that name."""
    own = (read_captions(figure.parent) if captions is None else captions).get(figure.stem)
    return own or CAPTIONS.get(figure.stem, figure.stem.replace("_", " ").capitalize() + ".")


def read_captions(folder: Path) -> dict[str, str]:
    """By the figure's name; {} where there are none, or damaged ones."""
    try:
        found = read_json(folder / "captions.json")
    except (OSError, ValueError):
        return {}
    return {str(name): str(text) for name, text in found.items()} if isinstance(found, dict) else {}


def n_of(counts: Iterable[int], noun: str) -> str:
    """`n = 3 seeds`, or `n = 2 to 3 seeds` where the parts of a figure rest on different numbers."""
    few, *more = sorted(set(counts))
    if more:
        return f"n = {few} to {more[-1]} {noun}s"
    return f"n = {few} {noun}{'' if few == 1 else 's'}"


def add_caption(figure: Path, note: str) -> None:
    """Write what the figure shows and rests on into captions.json beside it."""
    captions = read_captions(figure.parent)
    general = CAPTIONS.get(figure.stem, "")
    words = note if note.startswith("n =") else note[:1].upper() + note[1:]
    captions[figure.stem] = f"{general} {words}.".strip()
    write_json(figure.parent / "captions.json", captions)
