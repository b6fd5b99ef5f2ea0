"""The diff of docs/adding_a_mechanism.md, applied to a copy of the packages."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import torch
from conf.train_config import AttentionConfig, ModelConfig
from experiments.decoding.engine import DecodeEngine, Request
from experiments.decoding.sampling import GREEDY
from experiments.models.configuration import RlExpConfig
from experiments.models.shapes import AttentionMechanism
from experiments.models.transformer import build_model

shape = ModelConfig(layers=2, hidden_size=32, query_heads=4, head_dim=8, initializer_range=0.2).shape(
    AttentionConfig(mechanism=AttentionMechanism.normed_gqa, key_value_heads=2), vocabulary_size=32
)
model = build_model(RlExpConfig.from_shape(shape), torch.Generator().manual_seed(0))
assert sum(parameter.numel() for parameter in model.parameters()) == shape.parameters()

# Train on a text that repeats.
text = torch.arange(65) % 8
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
losses = []
for _ in range(20):
    loss = model.loss(text[None, :-1], text[None, 1:])
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(float(loss))
assert losses[-1] < losses[0] / 2, losses

# Generate by transformers, and sample by the decode engine.
model.eval()
prompt = text[None, :5]
options = {"attention_mask": torch.ones_like(prompt), "do_sample": False, "pad_token_id": 0}
generated = model.generate(prompt, max_new_tokens=8, **options)
engine = DecodeEngine(model, batch_size=2, max_length=16)
(completion,) = engine.generate([Request(prompt[0].tolist(), max_new_tokens=8, sampling=GREEDY)])
assert list(completion.tokens) == generated[0, 5:].tolist()
print("trained, generated, sampled")
"""


def test_the_recipe_for_a_mechanism_trains_generates_and_samples(tmp_path):
    for package in ("conf", "experiments"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (recipe,) = re.findall(r"```diff\n(.*?)```", (ROOT / "docs/adding_a_mechanism.md").read_text(), re.DOTALL)
    subprocess.run(["git", "apply", "-"], input=recipe, text=True, cwd=tmp_path, check=True)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment, text=True, capture_output=True, check=False
    )
    assert finished.stdout == "trained, generated, sampled\n", finished.stderr
    assert "mechanism: normed_gqa" in (tmp_path / "conf/attention/normed_gqa.yaml").read_text()
