"""The numbers of a training run are what they are called: recomputed from the saved model and the text itself."""

from __future__ import annotations

import json
import math
from collections import Counter

import pyarrow.parquet as pq
import pytest
import torch
from train_cases import metric_rows, only_run, tiny_training
from transformers import AutoModelForCausalLM, AutoTokenizer

import experiments.models.transformer  # noqa: F401  (registers the model with the Auto classes)

LENGTH = 32  # training.sequence_length of tiny_training


def held_out_text(folder):
    """The documents of both sides."""
    (text,) = (folder / "outputs" / "artifacts" / "text").glob("[!.]*")
    return {side: pq.read_table(text / f"{side}.parquet").column("text").to_pylist() for side in ("train", "held_out")}


@torch.no_grad()
def mean_loss(run, stream, targets, ends=()):
    """Nats per token of the first `targets` predictions, in blocks; positions in `ends` see nothing before them."""
    model = AutoModelForCausalLM.from_pretrained(run / "model").eval()
    total = 0.0
    for start in range(0, targets, LENGTH):
        block = stream[start : start + LENGTH + 1]
        first = 0
        cuts = [end - start for end in ends if start < end < start + LENGTH] + [LENGTH]
        for cut in cuts:  # each document's part of the block by itself
            inputs = torch.tensor([block[first:cut]])
            scores = model(input_ids=inputs).logits.log_softmax(-1)[0]
            total -= float(scores[range(cut - first), block[first + 1 : cut + 1]].double().sum())
            first = cut
    return total / targets


@pytest.mark.parametrize("masked", [False, True])
def test_held_out_numbers_are_recomputed_from_the_saved_model(masked, rl_exp, tmp_path):
    changes = (f"training.mask_documents={str(masked).lower()}", "training.evaluation_tokens=256")
    separated = ("data.document_separator=. ", "data.holdout_fraction=0.3") if masked else ()
    words = tiny_training(tmp_path, *changes, *separated)
    if masked:
        for file in (tmp_path / "text").iterdir():
            file.write_text(file.read_text().replace("sun", "sun."))
    assert (result := rl_exp("train", *words)).exit_code == 0, result.output
    run, texts = only_run(tmp_path), held_out_text(tmp_path)
    summary = json.loads((run / "summary.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    end = tokenizer.eos_token_id
    stream, ends = [], []
    for text in texts["held_out"]:
        stream += [*text.encode(), end]
        ends.append(len(stream))
    assert len(ends) > 1 or not masked

    last = metric_rows(run)[-1]
    for prefix, targets in (("eval", 512), ("eval_part", 256)):
        loss = mean_loss(run, stream, targets, ends if masked else ())
        assert last[f"{prefix}/local/loss"] == pytest.approx(loss, rel=1e-5)
        assert last[f"{prefix}/local/perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
        covered = sum(token < 256 for token in stream[1 : targets + 1])
        assert last[f"{prefix}/local/bits_per_byte"] == pytest.approx(loss * targets / covered / math.log(2), rel=1e-5)
    assert summary["eval/local/loss"] == last["eval/local/loss"]
    on_the_way = [row for row in metric_rows(run)[:-1] if any(name.startswith("eval") for name in row)]
    assert on_the_way
    assert all("eval_part/local/loss" in row and "eval/local/loss" not in row for row in on_the_way)

    counts = Counter(token for text in texts["train"] for token in [*text.encode(), end])
    total = sum(counts.values()) + len(tokenizer)
    nats = -sum(math.log((counts[token] + 1) / total) for token in stream) / len(stream)
    assert summary["eval/local/unigram_perplexity"] == pytest.approx(math.exp(nats), rel=1e-9)
