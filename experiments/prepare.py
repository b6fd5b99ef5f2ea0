"""From a configuration to what an experiment on rewards needs: policy, task, probe rollouts, reward models.

Everything here is shared between runs: a policy is the finished run of `rl-exp train` with the same settings, made when
it is missing; probe rollouts, preference pairs and reward models are artifacts. So the arms of a sweep pay once.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

import experiments.models.transformer  # noqa: F401 (registers our models with the Auto classes)
from conf.commands import COMMANDS
from conf.compose import differences, identity_of, plain
from conf.rlhf_config import PolicyTaskConfig
from conf.train_config import TrainConfig
from experiments.models.transformer import RlExpForCausalLM
from experiments.runs.foreign_files import loading, refuse_missing_weights
from experiments.runs.identity import content_hash
from experiments.runs.run import Run, RunBusy, RunState, open_run, read_status
from experiments.train import train
from experiments.training.device import arithmetic
from experiments.training.log_probabilities import token_log_probabilities
from experiments.training.probe import Probe, probe_prompts, stored_probe
from experiments.training.rollouts import EngineSampler, GenerateSampler, Rollouts, RolloutSampler

if TYPE_CHECKING:
    from experiments.tasks.task import Floats, Task

BUSY_SECONDS = 1.0  # between looks at a policy that another process trains
PROBE_SEED = 475  # all policies, arms and seeds draw their probe rollouts with the same noise


# The policy -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PreparedPolicy:
    """The initial policy: weights, tokenizer, and a name for its content."""

    model: PreTrainedModel  # is trained
    reference: PreTrainedModel  # stays as it is
    reference_scores: ReferenceScores
    tokenizer: PreTrainedTokenizerBase
    address: str  # a hash of what decides the weights
    label: str  # for tables: gqa, 1,000,000 tokens
    path: str  # of the model, a folder or hub name

    def sampler(self, task: Task, dtype: torch.dtype = torch.float32) -> RolloutSampler:
        """Draws completions from `model` as it then is; one of ours with matrix products in `dtype`."""
        return _sampler(self.model, self.tokenizer, task, dtype)

    def initial_sampler(self, task: Task) -> RolloutSampler:
        """Draws completions from the policy as it was at the start."""
        return _sampler(self.reference, self.tokenizer, task, torch.float32)


def _sampler(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task, dtype: torch.dtype
) -> RolloutSampler:
    """The decode engine for our models, else `generate` of transformers."""
    longest, most = max(len(prompt.tokens) for prompt in task.prompts), task.max_new_tokens
    if isinstance(model, RlExpForCausalLM):
        return EngineSampler(
            model, tokenizer, longest_prompt=longest, max_new_tokens=most, stop_tokens=task.stop_tokens, dtype=dtype
        )
    return GenerateSampler(model, tokenizer, max_new_tokens=most, stop_tokens=task.stop_tokens)


def prepare_policy(config: PolicyTaskConfig, run: Run, device: torch.device) -> PreparedPolicy:
    """The policy that the configuration names or describes; trained first where it does not exist yet."""
    if config.policy.path is not None:
        path, label = config.policy.path, Path(config.policy.path).name
        address = content_hash({"path": path, "files": _fingerprint(Path(path))})
    else:
        settings = policy_settings(config)
        directory = trained_run(settings, run)
        path, address = str(directory / "model"), directory.name
        label = f"{settings.attention.mechanism}, {settings.training.tokens:,} tokens"
    run.console.print("[bold]policy[/]    is loaded", highlight=False)
    disable_progress_bar()  # loading takes no time worth a bar
    # Said outright: transformers would ask at a terminal whether to run a folder's own code, and read pickles.
    safely: dict[str, Any] = {"trust_remote_code": False}
    with loading("policy.path", path, "name a folder or hub model of transformers"):
        tokenizer = AutoTokenizer.from_pretrained(path, **safely)
        model, info = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **safely
        )
        refuse_missing_weights(info)
    model.to(device)
    reference = copy.deepcopy(model).eval().requires_grad_(False)
    return PreparedPolicy(model, reference, ReferenceScores(reference), tokenizer, address, label, path)


def policy_settings(config: PolicyTaskConfig) -> TrainConfig:
    """The settings of `rl-exp train` that make the policy."""
    values = {item.name: getattr(config, item.name) for item in fields(TrainConfig)}
    return TrainConfig(**values | {"seed": config.policy.seed, "force": False})


def trained_run(settings: TrainConfig, run: Run) -> Path:
    """The directory of the finished run of `rl-exp train` with these settings; trains where there is none.

    Jobs of a sweep that need the same policy wait for the one that trains it.
    """
    composed = OmegaConf.structured(settings)
    values = plain(composed)
    identity = identity_of(composed, settings)
    directory = Path(settings.output_dir) / "train" / identity
    waiting = False
    while not is_finished(directory):
        if not run.ranks.is_first:  # the first rank trains the policy, alone, and shows it
            time.sleep(BUSY_SECONDS)
            continue
        try:
            run.console.print(f"[bold]policy[/]    is trained first: run {identity} of rl-exp train", highlight=False)
            with open_run(
                output_dir=Path(settings.output_dir),
                experiment="train",
                run_id=identity,
                seed=settings.seed,
                config=values,
                config_yaml=OmegaConf.to_yaml(OmegaConf.create(values)),
                overrides_yaml=OmegaConf.to_yaml(OmegaConf.create(differences(COMMANDS["train"], composed))),
                tracking=values["tracking"] | {"step_name": "tokens"},
                console=run.console,
            ) as training:
                training.write_json("summary.json", train(settings, training))
        except RunBusy:
            if not waiting:
                run.console.print(f"[bold]policy[/]    waiting for the process that trains {identity}", highlight=False)
            waiting = True
            run.heartbeat()
            time.sleep(BUSY_SECONDS)
    return directory


def is_finished(directory: Path) -> bool:
    """Whether a run directory holds a finished run with its results."""
    status = read_status(directory)
    return status is not None and status["state"] == RunState.finished and (directory / "summary.json").is_file()


def _fingerprint(folder: Path) -> list[list[Any]]:
    """Names, sizes and times of a local folder's files: enough to tell two models under one path apart."""
    if not folder.is_dir():
        return []
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]


# The task, and what the initial policy does on it ---------------------------------------------------------------------


class ReferenceScores:
    """Log-probabilities under the initial policy. The last answer is kept: a step's KL and fluency ask for the same."""

    def __init__(self, reference: PreTrainedModel) -> None:
        self._reference = reference
        self._asked: tuple[list[tuple[int, ...]], list[tuple[int, ...]], str] | None = None
        self._answer = torch.empty(0)

    def __call__(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], precision: str = "fp32"
    ) -> torch.Tensor:
        """Of every completion token, [n, L] on the CPU, 0 behind a completion's end; products in `precision`."""
        asked = [tuple(row) for row in prompts], [tuple(row) for row in completions], precision
        if asked != self._asked:
            with torch.no_grad(), arithmetic(self._reference.device, precision):
                self._answer = token_log_probabilities(self._reference, prompts, completions).float().cpu()
            self._asked = asked
        return self._answer

    def per_token(self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> Floats:
        """Mean over the tokens of each completion, [n] in nats."""
        return self(prompts, completions).double().sum(dim=1).numpy() / np.array([len(row) for row in completions])


def prepare_probe(config: PolicyTaskConfig, run: Run, policy: PreparedPolicy, task: Task) -> Probe:
    """Rollouts of the initial policy on the probe prompts: the same for every reward model and seed."""
    prompts, samples = probe_prompts(task, config.probe.prompts), config.probe.samples
    recipe = {
        "policy": policy.address,
        "task": task.recipe(),
        "prompts": len(prompts),
        "samples": samples,
        "seed": PROBE_SEED,
    }

    def draw() -> Rollouts:
        run.console.print(
            f"[bold]probe[/]     {len(prompts)} prompts x {samples} completions of the initial policy are drawn",
            highlight=False,
        )
        return policy.initial_sampler(task).sample(prompts, samples, seed=PROBE_SEED)

    return stored_probe(run.artifacts, recipe, task, samples, draw)
