"""The initial policy: a model that `rl-exp train` made, or any causal language model of transformers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

import experiments.models.transformer  # noqa: F401 (registers our models with the Auto classes)
from conf.rlhf_config import PolicyTaskConfig
from conf.train_config import TrainConfig
from experiments.models.from_transformers import NotConvertible, converted
from experiments.models.transformer import RlExpForCausalLM
from experiments.preparation.packaged_model import packaged_model
from experiments.runs.external_inputs import identity_of_input
from experiments.runs.foreign_files import loading, refuse_missing_weights
from experiments.runs.identity import content_hash
from experiments.runs.run import Run
from experiments.tasks.task import Task
from experiments.training.dropout import disable_dropout
from experiments.training.log_probabilities import score_completions
from experiments.training.rollouts import EngineSampler, GenerateSampler, RolloutSampler

# The directory of the finished run of `rl-exp train` with these settings, made where there is none. The command line
# hands one over: an experiment does not start other commands.
PolicyMaker = Callable[[TrainConfig, Run], Path]


@dataclass(frozen=True)
class Policy:
    """The initial policy: weights, tokenizer, and a name for its content."""

    model: PreTrainedModel  # is trained
    reference: PreTrainedModel  # stays as it is
    tokenizer: PreTrainedTokenizerBase
    address: str  # a hash of what decides the weights
    label: str  # for tables: gqa, 1,000,000 tokens
    identity: dict[str, Any]  # run of `rl-exp train`, contents of a folder, or hub name and commit

    def sampler(self, task: Task, dtype: torch.dtype = torch.float32) -> RolloutSampler:
        """Draws completions from `model` as it then is; one of ours with matrix products in `dtype`."""
        return _sampler(self.model, self.tokenizer, task, dtype)

    def initial_sampler(self, task: Task) -> RolloutSampler:
        """Draws completions from the policy as it was at the start."""
        return _sampler(self.reference, self.tokenizer, task, torch.float32)

    def reference_log_probabilities(
        self,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        precision: str = "fp32",
        temperature: float = 1.0,
    ) -> Tensor:
        """Of every completion token under the initial policy, [n, L] on the CPU, 0 behind a completion's end."""
        return score_completions(self.reference, prompts, completions, precision, temperature)


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


def _on_the_decode_engine(model: PreTrainedModel, run: Run) -> PreTrainedModel:
    """`model` as one of ours, where our decoder is what it computes."""
    if isinstance(model, RlExpForCausalLM):
        return model
    try:
        return converted(model)
    except NotConvertible as error:
        run.console.print(f"[bold]policy[/]    uses generate, not the decode engine: {error}", highlight=False)
        return model


def load_policy(config: PolicyTaskConfig, run: Run, device: torch.device, make_policy: PolicyMaker) -> Policy:
    """The policy that the configuration names or describes; made first where it does not exist yet.

    ValueError, in one line, for a folder or hub model that cannot be loaded.
    """
    # Said outright: transformers would ask at a terminal whether to run a folder's own code, and read pickles.
    options: dict[str, Any] = {"trust_remote_code": False}
    identity: dict[str, Any] | None = None  # of a path: known when it was loaded
    if config.policy.package is not None:
        artifact = packaged_model(config.policy.package, run)
        path, label = str(artifact.path), str(artifact.recipe["model"])
        identity, address = {"model": label, "artifact": artifact.address}, artifact.address
    elif config.policy.path is None:
        settings = config.policy_training()
        directory = make_policy(settings, run)
        path, label = str(directory / "model"), f"{settings.attention.mechanism}, {settings.training.tokens:,} tokens"
        identity, address = {"run": directory.name}, directory.name
    else:
        path, label = config.policy.path, Path(config.policy.path).name
        if config.policy.revision is not None:
            options["revision"] = config.policy.revision
    run.console.print("[bold]policy[/]    is loaded", highlight=False)
    disable_progress_bar()  # loading takes no time worth a bar
    with loading("policy.path", path, "name a folder or hub model of transformers"):
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **options
        )
        model, info = cast("tuple[PreTrainedModel, dict[str, Any]]", loaded)
        refuse_missing_weights(info)
    if rate := disable_dropout(model):
        run.console.print(f"[bold]policy[/]    its dropout of {rate:g} is off", highlight=False)
    model = _on_the_decode_engine(model, run)
    if identity is None:
        identity = identity_of_input(path, config.policy.revision)
        address = content_hash(identity)
    model.to(device)  # type: ignore[arg-type]  # whose signature a decorator of transformers hides
    reference = copy.deepcopy(model).requires_grad_(False)
    return Policy(model, reference, tokenizer, address, label, identity)
