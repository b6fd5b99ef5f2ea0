"""`rl-exp rlhf`: train a policy with policy gradient against one reward model, and watch what it does to the truth.

    rl-exp rlhf reward=on_policy_50 attention=gla seed=1

Method. The policy is a model that `rl-exp train` made (or any causal language model of transformers). Every step draws
a group of completions for each of some prompts through the decode engine, scores them with the reward model (the
proxy), turns the rewards into advantages, and takes one or several gradient steps. The ground truth and other reward
models are scored too, at weight zero. Every few steps the present policy is looked at on fixed probe prompts with fixed
noise: rewards, KL divergence to the initial policy, and the proxy's variance and accuracies, which drift with the
policy (What Makes a Reward Model a Good Teacher?, section 4.1 and appendix F.1).

Nothing but weights, optimizer and step is state: prompts and noise of a step follow from seed and step. So a run that
is cut off continues bit for bit (fp32 on CPU, same number of threads).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import wandb
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from conf.policy_gradient_config import KlPlace, PolicyGradientConfig, PolicyOptimizer
from conf.rlhf_config import RlhfConfig
from conf.train_config import Distribution, Precision
from experiments.evaluate_rewards import evaluate_rewards, prepare_off_policy
from experiments.prepare import PROBE_SEED, PreparedPolicy, prepare_policy, prepare_probe
from experiments.prepare_rewards import PreparedReward, prepare_rewards
from experiments.prepare_task import prepare_task
from experiments.reward_metrics.point_properties import point_properties
from experiments.reward_metrics.variance import zero_variance_share
from experiments.runs.files import naming_what_is_written
from experiments.runs.run import Run
from experiments.tasks.task import Prompt, Task
from experiments.training.advantages import advantages, reward_with_kl
from experiments.training.checkpoints import load_latest_checkpoint, save_checkpoint
from experiments.training.device import arithmetic, prepare_device
from experiments.training.distribution import copy_weights, load_weights, shard
from experiments.training.log_probabilities import token_log_probabilities
from experiments.training.optimizers import load_optimizer_state
from experiments.training.policy_gradient_step import PolicyGradientBatch, update_policy
from experiments.training.probe import Probe, probe_prompts, sample_table, scored_probe
from experiments.training.rollouts import RanksSampler, Rollouts, RolloutSampler

CHECKPOINTS_KEPT = 2


def rlhf(config: RlhfConfig, run: Run) -> dict[str, Any]:
    """Train the policy; returns the summary of the run."""
    device = prepare_device(config.device.value, config.threads)
    settings = config.policy_gradient
    policy = prepare_policy(config, run, device)
    task = prepare_task(config, run, policy)
    probe = prepare_probe(config, run, policy, task)
    proxy, *others = prepare_rewards([config.reward, *config.other_rewards], config, run, policy, task, probe)
    properties = initial_properties(config, run, policy, task, probe, proxy)
    tell(settings, run, policy, task, proxy, properties)

    model = trained_model(config, run, policy)
    model.train()
    optimizer = build_policy_optimizer(model, settings)
    precision = settings.precision.value
    sampler = policy.sampler(task, torch.bfloat16 if settings.precision is Precision.bf16 else torch.float32)
    if run.ranks.size > 1:
        sampler = RanksSampler(sampler, run.ranks)
    step, seconds = resume(run, model, optimizer)
    bring_to_sampler(model, policy)
    if step == 0:
        log_probe(run, 0, [proxy, *others], probe, policy)

    with run.finishing_steps(), run.progress("policy gradient", settings.steps, completed=step) as bar:
        started, first_step = time.perf_counter(), step
        while step < settings.steps:
            # Rollouts of the present policy, scored by every reward.
            prompts = prompts_of_step(task.prompts, settings.prompts_per_step, step, run)
            rollouts = sampler.sample(
                prompts,
                settings.group_size,
                seed=run.seeds.integer(f"sampling/{step}"),
                temperature=settings.temperature,
            )
            with named_step(step + 1):
                outputs = rollouts.outputs(task)
                raw = {reward.name: reward(outputs) for reward in (proxy, *others)}
            rewards = proxy.normalised(raw[proxy.name], outputs)
            rewards = rewards - settings.missing_eos_penalty * ~outputs.finished

            # KL divergence to the reference policy, and advantages within each prompt's group.
            reference_values = reference_log_probabilities(policy, rollouts, precision)
            old = padded(rollouts.log_probabilities)
            if settings.precision is Precision.bf16:  # again, in the update's arithmetic: ratios begin at 1, KL at 0
                old = log_probabilities_of(model, rollouts, precision)
            log_ratio = (old - reference_values).sum(dim=1).double()
            grouped = torch.from_numpy(rewards).view(len(prompts), settings.group_size)
            if settings.kl_place is KlPlace.reward:
                grouped = reward_with_kl(grouped, log_ratio.view_as(grouped), settings.kl_coefficient)
            batch = PolicyGradientBatch(
                prompts=[prompt.tokens for prompt in rollouts.prompts],
                completions=rollouts.tokens,
                old_log_probabilities=old,
                reference_log_probabilities=reference_values if settings.kl_place is KlPlace.loss else None,
                advantages=advantages(grouped, settings.advantage.value).flatten(),
            )
            minibatches = run.seeds.numpy(f"minibatches/{step}")
            with named_step(step + 1):
                statistics = update_policy(
                    model, optimizer, batch, generator=minibatches, ranks=run.ranks, **update_settings(settings)
                )
            bring_to_sampler(model, policy)
            stop = run.ranks.total([float(run.stop_requested)])[0] > 0
            step += 1

            # Once in a while: log, probe, save.
            rate = (step - first_step) * len(rollouts) / (time.perf_counter() - started)
            row = {
                "policy_gradient/proxy_reward": float(raw[proxy.name].mean()),
                "policy_gradient/normalised_proxy_reward": float(rewards.mean()),
                "policy_gradient/ground_truth_reward": float(outputs.ground_truth.mean()),
                "policy_gradient/kl": float(log_ratio.mean()),
                "policy_gradient/zero_variance_share": float(zero_variance_share(grouped)),
                "policy_gradient/entropy": -float(old.sum() / rollouts.lengths.sum()),
                "policy_gradient/length": float(rollouts.lengths.mean()),
                "policy_gradient/finished_share": float(rollouts.finished.mean()),
                "policy_gradient/completions_per_second": round(rate, 1),
                **{f"policy_gradient/reward/{reward.name}": float(raw[reward.name].mean()) for reward in others},
                **{f"policy_gradient/part/{name}": float(values.mean()) for name, values in outputs.parts.items()},
                **{f"policy_gradient/{name}": value for name, value in statistics.as_dict().items()},
            }
            run.log(row, step=step)
            bar.advance(
                1,
                proxy=f"{row['policy_gradient/proxy_reward']:+.3f}",
                truth=f"{row['policy_gradient/ground_truth_reward']:+.3f}",
                kl=f"{row['policy_gradient/kl']:.2f}",
            )
            if step % settings.probe_every == 0 and step < settings.steps:
                with named_step(step):
                    log_probe(run, step, [proxy, *others], look(config, task, sampler), policy)
            if step % settings.checkpoint_every == 0 or stop or step == settings.steps:
                save_state(run, step, model, optimizer, seconds + time.perf_counter() - started)
            if stop and step < settings.steps:
                raise KeyboardInterrupt
        seconds += time.perf_counter() - started

    with named_step(step):
        after = look(config, task, sampler)
        values = log_probe(run, step, [proxy, *others], after, policy)
    show_samples(run, settings, probe, after, proxy)
    if run.ranks.is_first:
        save_model(run.directory / "model", policy)
    first = probe_values([proxy, *others], probe, policy)
    return {
        "arm": config.reward.name,
        "policy": policy.label,
        "policy_address": policy.address,
        "task": task.name,
        "seed": config.seed,
        "steps": settings.steps,
        "ground_truth_increase": values["probe/ground_truth_reward"] - first["probe/ground_truth_reward"],
        "proxy_increase": values["probe/normalised_proxy_reward"] - first["probe/normalised_proxy_reward"],
        **values,
        "completions_per_second": settings.steps * settings.completions_per_step / max(seconds, 1e-9),
        "training_seconds": seconds,
        "properties": properties,
        "objective": -values["probe/ground_truth_reward"],
    }


@contextmanager
def named_step(step: int) -> Iterator[None]:
    """Inside, what a reward, the task or the update raises says in which step it happened."""
    try:
        yield
    except OSError:  # of a file, which it names
        raise
    except Exception as error:
        raise RuntimeError(f"step {step}: {str(error) or type(error).__name__}") from error


def initial_properties(
    config: RlhfConfig, run: Run, policy: PreparedPolicy, task: Task, probe: Probe, proxy: PreparedReward
) -> dict[str, float]:
    """What the proxy is like for the initial policy: every property of `rl-exp reward-eval`, without intervals."""
    off_policy = prepare_off_policy(config, run, policy, task, probe)
    evaluation = evaluate_rewards([proxy], probe, off_policy, run.seeds.numpy("evaluation"), resamples=1)
    return {f"reward/{name}": float(values[0]) for name, values in evaluation.values.items()}


def tell(
    settings: PolicyGradientConfig,
    run: Run,
    policy: PreparedPolicy,
    task: Task,
    proxy: PreparedReward,
    properties: dict[str, float],
) -> None:
    """The first screen's part on policy, task and reward model, and the same facts in the manifest."""
    parameters = sum(parameter.numel() for parameter in policy.model.parameters())
    run.add_to_manifest(
        policy=policy.label,
        policy_address=policy.address,
        parameters=parameters,
        task=task.recipe(),
        reward=proxy.facts,
        properties=properties,
    )
    run.console.print(
        f"[bold]policy[/]    {policy.label}, {parameters:,} parameters\n"
        f"[bold]task[/]      {task.name}, {len(task.prompts)} prompts, up to {task.max_new_tokens} new tokens\n"
        f"[bold]reward[/]    {proxy.name}: variance {properties['reward/variance']:.3f} (normalised), on-policy "
        f"accuracy {properties['reward/on_policy_accuracy']:.3f}, harm-aware accuracy "
        f"{properties['reward/harm_aware_accuracy']:.3f}\n"
        f"[bold]training[/]  {settings.advantage.value}, {settings.steps} steps of {settings.prompts_per_step} prompts "
        f"x {settings.group_size} completions",
        highlight=False,
    )


def trained_model(config: RlhfConfig, run: Run, policy: PreparedPolicy) -> PreTrainedModel:
    """What the optimizer updates: the policy, or under FSDP a sharded copy, whose weights rollouts gather."""
    if run.ranks.size == 1 or config.distribution is Distribution.ddp:
        return policy.model
    sharded = copy.deepcopy(policy.model)
    shard(sharded, run.ranks)
    return sharded


def bring_to_sampler(model: torch.nn.Module, policy: PreparedPolicy) -> None:
    """Give the policy that rollouts use the weights of the model that is trained, where they are two."""
    if model is not policy.model:
        copy_weights(model, policy.model)


def build_policy_optimizer(model: torch.nn.Module, settings: PolicyGradientConfig) -> torch.optim.Optimizer:
    """Adam or plain SGD at a constant learning rate, as both reward papers use."""
    if settings.optimizer is PolicyOptimizer.sgd:
        return torch.optim.SGD(model.parameters(), lr=settings.learning_rate, momentum=settings.momentum, fused=True)
    return torch.optim.Adam(model.parameters(), lr=settings.learning_rate, fused=True)


def update_settings(settings: PolicyGradientConfig) -> dict[str, Any]:
    """The arguments of `update_policy` that come from the configuration."""
    return {
        "epochs": settings.epochs,
        "minibatches": settings.minibatches,
        "clip": settings.clip,
        "sequence_ratio": settings.sequence_ratio,
        "denominator": settings.loss_denominator.value,
        "kl_estimator": settings.kl_estimator.value,
        "kl_coefficient": settings.kl_coefficient if settings.kl_place is KlPlace.loss else 0.0,
        "gradient_clip": settings.gradient_clip,
        "precision": settings.precision.value,
    }


def prompts_of_step(prompts: Sequence[Prompt], count: int, step: int, run: Run) -> list[Prompt]:
    """The prompts of a step: each epoch is a permutation of its own; all arms of a sweep see the same order."""
    chosen: list[Prompt] = []
    for place in range(step * count, (step + 1) * count):
        epoch, position = divmod(place, len(prompts))
        order = run.seeds.numpy(f"data/{epoch}").permutation(len(prompts))
        chosen.append(prompts[order[position]])
    return chosen


def padded(rows: Sequence[Sequence[float]]) -> torch.Tensor:
    """Ragged rows as [n, L], 0 behind their ends."""
    result = torch.zeros(len(rows), max(map(len, rows)))
    for row, values in enumerate(rows):
        result[row, : len(values)] = torch.tensor(values)
    return result


def log_probabilities_of(model: torch.nn.Module, rollouts: Rollouts, precision: str) -> torch.Tensor:
    """Of the completions' tokens under the present policy, [n, L] on the CPU."""
    prompts = [prompt.tokens for prompt in rollouts.prompts]
    with torch.no_grad(), arithmetic(next(model.parameters()).device, precision):
        return token_log_probabilities(model, prompts, rollouts.tokens).float().cpu()


def reference_log_probabilities(policy: PreparedPolicy, rollouts: Rollouts, precision: str = "fp32") -> torch.Tensor:
    """Of the completions' tokens under the initial policy, [n, L] on the CPU."""
    return policy.reference_scores([prompt.tokens for prompt in rollouts.prompts], rollouts.tokens, precision)


def look(config: RlhfConfig, task: Task, sampler: RolloutSampler) -> Probe:
    """The present policy on the probe prompts, with the noise of the initial policy's probe rollouts."""
    prompts = probe_prompts(task, config.probe.prompts)
    return scored_probe(sampler.sample(prompts, config.probe.samples, seed=PROBE_SEED), task, config.probe.samples)


def probe_values(rewards: Sequence[PreparedReward], probe: Probe, policy: PreparedPolicy) -> dict[str, float]:
    """What a probe says of the policy (`probe/`) and of the first reward, the proxy, for this policy (`reward/`)."""
    proxy, *others = rewards
    raw = proxy(probe.outputs)
    log_ratio = (
        probe.rollouts.sequence_log_probabilities
        - reference_log_probabilities(policy, probe.rollouts).double().sum(dim=1).numpy()
    )
    return {
        "probe/proxy_reward": float(raw.mean()),
        "probe/normalised_proxy_reward": float(proxy.normalised(raw, probe.outputs).mean()),
        "probe/ground_truth_reward": float(probe.outputs.ground_truth.mean()),
        "probe/kl": float(log_ratio.mean()),
        "probe/length": float(probe.rollouts.lengths.mean()),
        "probe/entropy": -float(probe.rollouts.sequence_log_probabilities.sum() / probe.rollouts.lengths.sum()),
        **{f"probe/reward/{reward.name}": float(reward(probe.outputs).mean()) for reward in others},
        **{f"probe/part/{name}": float(values.mean()) for name, values in probe.outputs.parts.items()},
        **point_properties(probe.by_prompt(raw), probe.ground_truth),
    }


def log_probe(
    run: Run, step: int, rewards: Sequence[PreparedReward], probe: Probe, policy: PreparedPolicy
) -> dict[str, float]:
    """Log `probe_values` and say the chief ones."""
    values = probe_values(rewards, probe, policy)
    run.log(values, step=step)
    run.console.print(
        f"{step:>6,} steps  proxy {values['probe/proxy_reward']:+.3f}  ground truth "
        f"{values['probe/ground_truth_reward']:+.3f}  KL {values['probe/kl']:.2f}  reward variance "
        f"{values['reward/variance']:.3f}",
        highlight=False,
    )
    return values


def show_samples(run: Run, settings: PolicyGradientConfig, before: Probe, after: Probe, proxy: PreparedReward) -> None:
    """Texts of the same prompts and noise before and after: on the screen, in samples.txt and in W&B."""
    if settings.samples == 0:
        return
    rewards = {
        "truth": (before.outputs.ground_truth, after.outputs.ground_truth),
        "proxy": (proxy(before.outputs), proxy(after.outputs)),
    }
    rows = [prompt * before.samples for prompt in range(min(settings.samples, before.prompts))]
    text = sample_table(before.rollouts, after.rollouts, rewards, rows)
    run.write_text("samples.txt", text)
    run.console.print(text, markup=False, highlight=False, soft_wrap=True, end="")
    columns = ["prompt", "before", "after", "ground truth before", "ground truth after"]
    table = [
        [
            before.rollouts.prompts[row].text,
            before.rollouts.texts[row],
            after.rollouts.texts[row],
            float(before.outputs.ground_truth[row]),
            float(after.outputs.ground_truth[row]),
        ]
        for row in rows
    ]
    run.log_media({"samples": wandb.Table(columns=columns, data=table)})


def resume(run: Run, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """Continue from the newest whole checkpoint: returns its step and the seconds trained so far, or zeros."""
    state = load_latest_checkpoint(run.checkpoints)
    if state is None:
        run.resume_metrics(0)
        return 0, 0.0
    load_weights(model, state["model"])
    load_optimizer_state(optimizer, state["optimizer"])
    run.resume_metrics(state["metrics_position"])
    run.console.print(f"continuing after step {state['step']:,}", highlight=False)
    return state["step"], state["seconds"]


def save_state(run: Run, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer, seconds: float) -> None:
    """Everything that the next step depends on."""
    state = {
        "step": step,
        "seconds": seconds,
        "metrics_position": run.metrics_position(),
        "model": dict(model.named_parameters()),
        "optimizer": optimizer.state_dict(),
    }
    save_checkpoint(run.checkpoints, step, state, keep=CHECKPOINTS_KEPT, ranks=run.ranks)


def save_model(directory: Path, policy: PreparedPolicy) -> None:
    """Model and tokenizer in the layout of transformers."""
    disable_progress_bar()
    with naming_what_is_written(directory):
        policy.model.save_pretrained(directory)
        policy.tokenizer.save_pretrained(directory)
