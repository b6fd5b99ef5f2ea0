"""Every command line of README and docs runs, at tiny size."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.runs.artifacts import ArtifactStore

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)

TINY = {
    "train": [
        "model.layers=1",
        "threads=1",
        "training.tokens=2048",
        "training.batch_size=4",
        "training.sequence_length=32",
        "training.evaluation_tokens=256",
        "training.final_evaluation_tokens=256",
        "training.sample_tokens=4",
        "tracking.mode=disabled",
    ],
    "bench": [
        "bench.rounds=1",
        "bench.batch=[1]",
        "bench.context=[32]",
        "bench.query_length=[1]",
        "bench.dtype=[fp32]",
        "model.layers=1",
        "model.hidden_size=64",
        "model.head_dim=16",
        "model.query_heads=4",
        "model.anchor_feed_forward_dim=128",
        "threads=1",
        "tracking.mode=disabled",
    ],
}
POLICY_AND_TASK = [
    *TINY["train"],
    "task.prompts=16",
    "task.max_new_tokens=4",
    "probe.prompts=6",
    "probe.samples=3",
]
TINY["rlhf"] = [
    *POLICY_AND_TASK,
    "policy_gradient.steps=2",
    "policy_gradient.prompts_per_step=2",
    "policy_gradient.group_size=2",
    "reward.trained.pairs=16",
]
TINY["reward-eval"] = [*POLICY_AND_TASK, "rewards=[ground_truth,noisy_75]", "resamples=50"]
TINY["rlhf-sweep"] = [*TINY["rlhf"], "reward=ground_truth,perfect_low_variance", "seed=0", "hydra/launcher=basic"]
# Names of runs, downloads, and evidence that takes as long as the experiment itself.
NEEDS_MORE = (
    "needs the network",
    "device=cuda",
    "<run id>",
    "--run ",
    "submitit_slurm",
    "launcher=ray",
    "sweeper=optuna",
    "my_rewards.py:shortness,",  # two runs of what the lines before it run
)


def command_lines() -> list:
    blocks = re.findall(r"```bash\n(.*?)```", TEXT, re.S)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("rl-exp ")]
    return [
        pytest.param(
            line,
            id=line.split("#")[0].strip().replace("[", "(").replace("]", ")"),
            marks=[pytest.mark.slow] if "experiment=glob" in line else [],  # a minute; each is tested by itself
        )
        for line in dict.fromkeys(lines)
        if not any(word in line for word in NEEDS_MORE)
    ]


@pytest.fixture(scope="session")
def prepared_outputs(tmp_path_factory) -> Path:
    """Artifacts are made once for all commands of this file."""
    folder = tmp_path_factory.mktemp("readme") / "outputs"
    folder.mkdir()  # a report may come before the first run: which command is first is left to chance
    ArtifactStore(folder / "artifacts")
    return folder


@pytest.mark.parametrize("line", command_lines())
def test_a_command_of_the_documents_runs(line, rl_exp, tmp_path, prepared_outputs):
    words = shlex.split(line, comments=True)[1:]
    (tmp_path / "my_texts").mkdir()
    shutil.copy(ROOT / "README.md", tmp_path / "my_texts" / "one.txt")
    (problem,) = re.findall(r"```yaml\n(# my_problem.yaml.*?)```", TEXT, re.S)
    (tmp_path / "my_problem.yaml").write_text(problem)
    for code in re.findall(r"```python\n(# my_\w+\.py\n.*?)```", TEXT, re.S):
        (tmp_path / code.splitlines()[0].removeprefix("# ")).write_text(code)
    if words[0] == "report":
        result = rl_exp(*words, "--output-dir", str(prepared_outputs))
    else:
        planned = any(word.startswith("mode=plan") for word in words)  # measures nothing: quick at any size
        tiny = ["tracking.mode=disabled"] if planned else TINY.get(words[0], [])
        if "task=python" in words:
            tiny = [word for word in tiny if not word.startswith(("task.prompts", "probe.prompts"))]
        words += [
            *tiny,
            f"output_dir={prepared_outputs}",
        ]
        if "--summary" in words:  # of a sweep that has something to summarise, whichever test came first
            assert rl_exp(*(word for word in words if word != "--summary")).exit_code == 0
        result = rl_exp(*words)
    assert result.exit_code == 0, result.output


def test_the_python_of_the_readme_runs_on_a_trained_model(rl_exp, prepared_outputs):
    (snippet,) = re.findall(r"```python\n(import experiments.models.*?)```", TEXT, re.S)
    assert rl_exp("train", *TINY["train"], "seed=9", f"output_dir={prepared_outputs}").exit_code == 0
    folder = max((prepared_outputs / "train").iterdir(), key=lambda run: run.stat().st_mtime)
    code = snippet.replace("outputs/train/<run id>", str(folder))
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make ([a-z-]+)", TEXT, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target


@pytest.mark.parametrize("document", [*DOCUMENTS, ROOT / "CONTRIBUTING.md"], ids=lambda path: path.name)
def test_the_links_of_a_document_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)]+)\)", document.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        found = document.parent / path if path else document
        assert found.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)", found.read_text(encoding="utf-8"), re.M)
            assert anchor in {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in headings}, target


def test_the_readme_is_two_screens():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120
