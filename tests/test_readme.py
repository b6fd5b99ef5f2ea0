"""Every command line of README and docs is accepted, and the first of every command runs, at tiny size.

Marked slow: all of them run.
"""

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
TINY["controlled"] = ["tracking.mode=disabled"]
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


def command_lines() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", TEXT, re.S)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("rl-exp ")]
    return [line for line in dict.fromkeys(lines) if not any(word in line for word in NEEDS_MORE)]


def name_of(line: str) -> str:
    return line.split("#")[0].strip().replace("[", "(").replace("]", ")")


def first_of_every_command() -> list[str]:
    """Of `train`, `bench`, ... and of every report; of `controlled` a quick one."""
    first: dict[str, str] = {}
    for line in command_lines():
        words = shlex.split(line, comments=True)[1:]
        if words[0] == "controlled" and "experiment=error_categories" not in words:
            continue
        if {"--dry-run", "--cfg", "--summary"} & set(words):
            continue
        if words[:2] == ["report", "figures"]:  # draws all that is published: test_report_page.py draws less
            continue
        first.setdefault(" ".join(words[:2]) if words[0] == "report" else words[0], line)
    return list(first.values())


@pytest.fixture(scope="session")
def prepared_outputs(tmp_path_factory) -> Path:
    """Artifacts are made once for all commands of this file."""
    folder = tmp_path_factory.mktemp("readme") / "outputs"
    folder.mkdir()  # a report may come before the first run: which command is first is left to chance
    ArtifactStore(folder / "artifacts")
    return folder


@pytest.fixture
def readers_files(tmp_path) -> None:
    """The files of a reader's own that the commands name."""
    (tmp_path / "my_texts").mkdir()
    shutil.copy(ROOT / "README.md", tmp_path / "my_texts" / "one.txt")
    (problem,) = re.findall(r"```yaml\n(# my_problem.yaml.*?)```", TEXT, re.S)
    (tmp_path / "my_problem.yaml").write_text(problem)
    for code in re.findall(r"```python\n(# my_\w+\.py\n.*?)```", TEXT, re.S):
        (tmp_path / code.splitlines()[0].removeprefix("# ")).write_text(code)


FIRST = first_of_every_command()
EXPERIMENTS = [line for line in command_lines() if not line.startswith("rl-exp report")]


@pytest.mark.parametrize("line", EXPERIMENTS, ids=name_of)
@pytest.mark.usefixtures("readers_files")
def test_a_command_of_the_documents_is_accepted(line, rl_exp):
    words = [word for word in shlex.split(line, comments=True)[1:] if word not in ("--dry-run", "--summary")]
    result = rl_exp(*words, *([] if "--cfg" in words else ["--dry-run"]))
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("line", FIRST, ids=name_of)
@pytest.mark.usefixtures("readers_files")
def test_the_first_line_of_a_command_in_the_documents_runs(line, rl_exp, prepared_outputs):
    run_line(line, rl_exp, prepared_outputs)


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in command_lines() if line not in FIRST], ids=name_of)
@pytest.mark.usefixtures("readers_files")
def test_every_other_command_of_the_documents_runs(line, rl_exp, prepared_outputs):
    run_line(line, rl_exp, prepared_outputs)


def run_line(line: str, rl_exp, prepared_outputs) -> None:
    words = shlex.split(line, comments=True)[1:]
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
