"""The commands from Python: a notebook's door to runs.

    from experiments.api import load, run

    result = run("rlhf", "reward=noisy_75", "seed=1")     # what `rl-exp rlhf reward=noisy_75 seed=1` does
    result.summary["ground_truth_increase"], result.metrics(), result.model()
    sweep = run("train", "-m", "attention=gqa,gla")       # a list of results
    load("3f2a")                                          # a run by the beginning of its id, or by its folder

Like the command, `run` continues what was cut off and returns at once what is finished. A mistake raises ValueError, a
run that failed RuntimeError, with the text that the command line prints.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from experiments.reports.run_comparison import find_runs
from experiments.runs.files import read_json
from experiments.runs.run import RunState, read_status

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Result:
    """A run directory."""

    directory: Path

    @property
    def id(self) -> str:
        """The run id."""
        return self.directory.name

    @property
    def state(self) -> str:
        """running, finished, failed or interrupted; empty where the run never began."""
        return str((read_status(self.directory) or {}).get("state", ""))

    @property
    def reason(self) -> str:
        """Why it did not finish."""
        return str((read_status(self.directory) or {}).get("reason") or self.state or "not started")

    @cached_property
    def config(self) -> DictConfig:
        """The settings that it was composed of."""
        config = OmegaConf.load(self.directory / "config.yaml")
        assert isinstance(config, DictConfig)
        return config

    @property
    def summary(self) -> dict[str, Any]:
        """The results, by name. OSError where the run has not finished."""
        summary: dict[str, Any] = read_json(self.directory / "summary.json")
        return summary

    def metrics(self) -> Any:
        """All rows that were logged: a pandas.DataFrame where pandas is installed, else a list of dictionaries."""
        lines = (self.directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        try:
            import pandas
        except ImportError:
            return rows
        return pandas.DataFrame(rows)

    def model(self) -> PreTrainedModel:
        """The trained model, of the class that it has in transformers. OSError where the run has none."""
        from transformers import AutoModelForCausalLM

        import experiments.models.transformer  # noqa: F401  # registers our model with the Auto classes

        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(self._model_folder())
        return model

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        from transformers import AutoTokenizer

        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(self._model_folder())
        return tokenizer

    def _model_folder(self) -> Path:
        folder = self.directory / "model"
        if not folder.is_dir():
            raise FileNotFoundError(f"run {self.id} has no model: it is {self.state or 'not started'}")
        return folder


def run(command: str, *words: str) -> Result | list[Result]:
    """Do what `rl-exp <command> <words>` does. A list where the command is a sweep.

    ValueError for a mistake in the words, RuntimeError for a run that failed, KeyboardInterrupt as it comes.
    """
    from typer import Exit

    from cli.hydra_command import split_words
    from cli.main import app
    from conf.commands import COMMANDS
    from conf.compose import plan_jobs, suggestion
    from conf.override_rules import UserError

    if command not in COMMANDS:
        known = ", ".join(COMMANDS)
        raise ValueError(f"command {command!r} does not exist: use one of {known}.{suggestion(command, COMMANDS)}")
    try:
        flags, overrides = split_words(command, list(words))
        jobs, multirun = plan_jobs(COMMANDS[command], overrides, multirun=bool({"-m", "--multirun"} & set(flags)))
    except UserError as error:
        raise ValueError(str(error)) from error
    results = [
        Result(Path(job.config.output_dir) / COMMANDS[command].experiment / job.run_id)
        for job in {job.run_id: job for job in jobs}.values()
    ]
    try:
        code = app([command, *words], standalone_mode=False)
    except (Exit, SystemExit) as end:
        code = end.exit_code if isinstance(end, Exit) else end.code
    if code == 130:
        raise KeyboardInterrupt
    failed = [result for result in results if result.state != RunState.finished]
    if code or failed:
        raise RuntimeError(f"rl-exp {command}: " + "; ".join(f"run {item.id}: {item.reason}" for item in failed))
    return results if multirun else results[0]


def load(name: str | Path, output_dir: str | Path = "outputs") -> Result:
    """A run by its folder, its id, or the beginning of it. ValueError where there is none, or more than one."""
    directories = find_runs([str(name)], Path(output_dir))
    if len(directories) != 1:
        raise ValueError(f"{name} is a sweep of {len(directories)} runs: use load_sweep")
    return Result(directories[0])


def load_sweep(name: str | Path, output_dir: str | Path = "outputs") -> list[Result]:
    """The runs of a sweep by its folder, its id, or the beginning of it. ValueError where there is none."""
    return [Result(path) for path in find_runs([str(name)], Path(output_dir))]
