"""`rl-exp rlhf`: train a policy with policy gradient against one reward model, and log the ground truth too.

    rl-exp rlhf reward=on_policy_50 attention=gla seed=1

Method. The policy is a model that `rl-exp train` made (or any causal language model of transformers). Every step draws
a group of completions for each of some prompts through the decode engine, scores them with the reward model (the
proxy), turns the rewards into advantages, and takes one or several gradient steps. The ground truth and other reward
models are scored too, at weight zero. Every few steps the present policy is run on fixed probe prompts with fixed
noise: rewards, KL divergence to the initial policy, and the proxy's variance and accuracies, which drift with the
policy (What Makes a Reward Model a Good Teacher?, section 4.1 and appendix F.1).

Where a prompt becomes a rollout: training/rollouts.py; a reward: rewards/reward.py; an advantage:
training/advantages.py; an update of the weights: training/policy_gradient_step.py.

Nothing but weights, optimizer and step is state: prompts and noise of a step follow from seed and step. So a run that
is cut off continues bit for bit (fp32 on CPU, same number of threads).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from conf.policy_gradient_config import PolicyGradientConfig
from conf.rlhf_config import RlhfConfig, SignalProbes
from experiments.preparation.policy import Policy, PolicyMaker
from experiments.preparation.properties import initial_properties
from experiments.preparation.rewards import prepare_rewards
from experiments.preparation.setup import Setup, prepare
from experiments.reward_metrics.properties import SIGNALS
from experiments.rewards.reward import Reward
from experiments.runs.files import naming_what_is_written
from experiments.runs.run import Run
from experiments.tasks.task import Prompt
from experiments.teaching_signal.probe_signals import probe_signals
from experiments.training.advantages import advantages, log_ratio_rounding
from experiments.training.algorithms import KlPlace
from experiments.training.choices import Distribution, Precision
from experiments.training.log_probabilities import score_completions
from experiments.training.policy_gradient_step import PolicyGradientBatch, update_policy
from experiments.training.policy_state import PolicyState
from experiments.training.probe import Probe, run_probe
from experiments.training.probe_metrics import ProbeResult, measure_probe, samples_as_text, samples_before_and_after
from experiments.training.rollouts import RanksSampler, padded
from experiments.training.step_metrics import group_metrics, step_metrics


def rlhf(config: RlhfConfig, run: Run, make_policy: PolicyMaker) -> dict[str, Any]:
    """Train the policy; returns the summary of the run."""
    settings = config.policy_gradient
    setup = prepare(config, run, make_policy)
    policy, task = setup.policy, setup.task
    proxy, *others = prepare_rewards(setup, [config.reward, *config.other_rewards])
    properties = initial_properties(setup, proxy)
    if config.probe.signals is not SignalProbes.none:
        properties |= signals_of(setup, setup.probe, proxy)
    record_setup(setup, proxy, properties)
    print_setup(setup, settings, proxy, properties)

    precision = settings.precision.value
    sampler = policy.sampler(task, torch.bfloat16 if settings.precision is Precision.bf16 else torch.float32)
    if run.ranks.size > 1:
        sampler = RanksSampler(sampler, run.ranks)
    state = PolicyState.of(
        run,
        policy.model,
        sharded=run.ranks.size > 1 and config.distribution is not Distribution.ddp,
        optimizer=settings.optimizer,
        learning_rate=settings.learning_rate,
        momentum=settings.momentum,
    )
    step, seconds = state.resume()
    state.update_rollout_weights()
    before = measure(setup.probe, proxy, others, policy)
    if step == 0:
        log_probe(run, 0, before, properties)

    with run.finishing_steps(), run.progress("policy gradient", settings.steps, completed=step) as bar:
        first_step, seconds_before = step, seconds
        while step < settings.steps:
            started = time.perf_counter()
            # Rollouts of the present policy, scored by every reward.
            prompts = prompts_of_step(task.prompts, settings.prompts_per_step, step, run)
            rollouts = sampler.sample(
                prompts,
                settings.group_size,
                seed=run.seeds.integer(f"sampling/{step}"),
                temperature=settings.temperature,
            )
            prompt_tokens = [prompt.tokens for prompt in rollouts.prompts]
            in_update = (precision, settings.temperature)  # the arithmetic and the distribution of the update
            reference = policy.reference_log_probabilities(prompt_tokens, rollouts.tokens, *in_update)
            with step_named(step + 1):
                outputs = rollouts.outputs(task, reference if in_update == ("fp32", 1.0) else None)
                raw = {reward.name: reward(outputs) for reward in (proxy, *others)}
            rewards = proxy.normalise(raw[proxy.name], outputs) - settings.missing_eos_penalty * ~outputs.finished

            # KL divergence to the reference policy, and advantages within each prompt's group.
            old = padded(rollouts.log_probabilities)
            if settings.precision is Precision.bf16:  # again, in the update's arithmetic: ratios begin at 1, KL at 0
                old = score_completions(state.model, prompt_tokens, rollouts.tokens, *in_update)
            grouped = torch.from_numpy(rewards).view(len(prompts), settings.group_size)
            log_ratios = None
            if settings.kl_place is KlPlace.reward:
                log_ratios = (old - reference).sum(dim=1).double().view_as(grouped)
            batch = PolicyGradientBatch(
                prompts=prompt_tokens,
                completions=rollouts.tokens,
                old_log_probabilities=old,
                reference_log_probabilities=reference if settings.kl_place is KlPlace.loss else None,
                advantages=advantages(
                    grouped,
                    settings.advantage,
                    log_ratios=log_ratios,
                    kl_coefficient=settings.kl_coefficient,
                    rounding=log_ratio_rounding(old.shape[1]),
                ).flatten(),
            )
            minibatches = run.seeds.numpy(f"minibatches/{step}")
            state.set_learning_rate(rate := settings.learning_rate_at(step))
            with step_named(step + 1):
                statistics = update_policy(
                    state.model,
                    state.optimizer,
                    batch,
                    generator=minibatches,
                    ranks=run.ranks,
                    **settings.update_settings(),
                )
            state.update_rollout_weights()
            stop = run.ranks.total([float(run.stop_requested)])[0] > 0
            step += 1
            seconds += time.perf_counter() - started  # of training alone: probes and saving come after

            # Log every step; once in a while probe and save.
            speed = (step - first_step) * len(rollouts) / max(seconds - seconds_before, 1e-9)
            values = {
                **step_metrics(
                    rollouts, outputs, raw, proxy.probe_scale(raw[proxy.name], outputs), rewards, old, reference
                ),
                **group_metrics(raw[proxy.name].reshape(grouped.shape), *proxy.range_with(raw[proxy.name])),
                **statistics.as_dict(),
                "learning_rate": rate,
                "completions_per_second": round(speed, 1),
            }
            run.log({f"policy_gradient/{name}": value for name, value in values.items()}, step=step)
            bar.advance(
                1,
                proxy=f"{values['proxy_reward']:+.3f}",
                truth=f"{values['ground_truth_reward']:+.3f}",
                kl=f"{values['kl']:.2f}",
            )
            if step % settings.probe_every == 0 and step < settings.steps:
                with step_named(step):
                    probe = run_probe(sampler, task, config.probe.prompts, config.probe.samples)
                    log_probe(run, step, measure(probe, proxy, others, policy), later_signals(setup, probe, proxy))
            if step % settings.checkpoint_every == 0 or stop or step == settings.steps:
                state.save(step, seconds)
            if stop and step < settings.steps:
                raise KeyboardInterrupt

    with step_named(step):
        probe = run_probe(sampler, task, config.probe.prompts, config.probe.samples)
        after = measure(probe, proxy, others, policy)
        log_probe(run, step, after, later_signals(setup, probe, proxy))
    show_samples(run, settings.samples, before, after)
    if run.ranks.is_first:
        save_policy(run.directory / "model", policy)
    return summary(config, setup, properties, before, after, seconds)


@contextmanager
def step_named(step: int) -> Iterator[None]:
    """Inside, what a reward, the task or the update raises says in which step it happened."""
    try:
        yield
    except OSError:  # of a file, which it names
        raise
    except Exception as error:
        raise RuntimeError(f"step {step}: {str(error) or type(error).__name__}") from error


def prompts_of_step(prompts: Sequence[Prompt], count: int, step: int, run: Run) -> list[Prompt]:
    """The prompts of a step: each epoch is a permutation of its own; all arms of a sweep see the same order."""
    chosen: list[Prompt] = []
    for place in range(step * count, (step + 1) * count):
        epoch, position = divmod(place, len(prompts))
        order = run.seeds.numpy(f"data/{epoch}").permutation(len(prompts))
        chosen.append(prompts[order[position]])
    return chosen


def measure(probe: Probe, proxy: Reward, others: Sequence[Reward], policy: Policy) -> ProbeResult:
    """A probe with the KL divergence to the initial policy."""
    prompts = [prompt.tokens for prompt in probe.rollouts.prompts]
    return measure_probe(probe, proxy, others, policy.reference_log_probabilities(prompts, probe.rollouts.tokens))


def signals_of(setup: Setup, probe: Probe, proxy: Reward) -> dict[str, float]:
    """Learning and teaching signals of the proxy for the present policy, which drew the probe, by `reward/<name>`."""
    config = setup.config
    assert isinstance(config, RlhfConfig)
    settings = config.policy_gradient
    signals = probe_signals(
        setup.policy.model,
        probe,
        [proxy],
        advantage=settings.advantage,
        last_layers=config.probe.signal_layers,
        precision=settings.precision.value,
    )
    values = {} if signals is None else {name: float(value[0]) for name, value in signals.values.items()}
    return {f"reward/{name}": value for name, value in values.items() if math.isfinite(value)}  # a cosine may have none


def later_signals(setup: Setup, probe: Probe, proxy: Reward) -> dict[str, float]:
    """The same of a policy that has trained, where the configuration wants them of every probe."""
    return signals_of(setup, probe, proxy) if setup.config.probe.signals is SignalProbes.every else {}


# What is recorded and shown -------------------------------------------------------------------------------------------


def record_setup(setup: Setup, proxy: Reward, properties: dict[str, float]) -> None:
    """What the run starts from, in its manifest."""
    policy = setup.policy
    setup.run.add_to_manifest(
        policy=policy.label,
        policy_address=policy.address,
        policy_identity=policy.identity,
        parameters=policy.model.num_parameters(),
        task=setup.task.recipe(),
        reward=proxy.facts,
        properties=properties,
    )


def print_setup(setup: Setup, settings: PolicyGradientConfig, proxy: Reward, properties: dict[str, float]) -> None:
    """The first screen's part on policy, task, reward model and algorithm."""
    policy, task = setup.policy, setup.task
    setup.run.console.print(
        f"[bold]policy[/]    {policy.label}, {policy.model.num_parameters():,} parameters\n"
        f"[bold]task[/]      {task.name}, {len(task.prompts)} prompts, up to {task.max_new_tokens} new tokens\n"
        f"[bold]reward[/]    {proxy.name}: variance {properties['reward/variance']:.3f} (normalised), on-policy "
        f"accuracy {properties['reward/on_policy_accuracy']:.3f}, harm-aware accuracy "
        f"{properties['reward/harm_aware_accuracy']:.3f}\n"
        f"[bold]training[/]  {settings.advantage}, {settings.steps} steps of {settings.prompts_per_step} prompts "
        f"x {settings.group_size} completions",
        highlight=False,
    )
    if properties["reward/zero_variance_share"] == 1:
        setup.run.console.print(
            f"[yellow]reward {proxy.name} is the same for all completions of each probe prompt: it teaches nothing, "
            "and its accuracy is undefined[/]"
        )
    if task.stop_tokens and not setup.probe.outputs.finished.any():
        setup.run.console.print(
            f"[yellow]all {len(setup.probe.outputs)} completions of the probe were cut off at task.max_new_tokens="
            f"{task.max_new_tokens}: raise it[/]"
        )


def log_probe(run: Run, step: int, result: ProbeResult, properties: Mapping[str, float]) -> None:
    """Log the probe metrics, with those of `properties` that are signals, and print the main ones."""
    values = result.metrics
    signals = {name: properties[f"reward/{name}"] for name in SIGNALS if f"reward/{name}" in properties}
    run.log(values | {f"reward/{name}": value for name, value in signals.items()}, step=step)
    run.console.print(
        f"{step:>6,} steps  proxy {values['probe/proxy_reward']:+.3f}  ground truth "
        f"{values['probe/ground_truth_reward']:+.3f}  KL {values['probe/kl']:.2f}  reward variance "
        f"{values['reward/variance']:.3f}",
        highlight=False,
    )


def show_samples(run: Run, count: int, before: ProbeResult, after: ProbeResult) -> None:
    """Texts of the same prompts and noise before and after: on the screen, in samples.txt and in W&B."""
    samples = samples_before_and_after(before, after, count)
    if not samples:
        return
    import wandb

    text = samples_as_text(samples)
    run.write_text("samples.txt", text)
    run.console.print(text, markup=False, highlight=False, soft_wrap=True, end="")
    columns = ["prompt", "before", "after", "ground truth before", "ground truth after"]
    table = [[sample[name] for name in columns] for sample in samples]
    run.log_media({"samples": wandb.Table(columns=[*columns], data=table)})


def save_policy(directory: Path, policy: Policy) -> None:
    """Model and tokenizer in the layout of transformers."""
    disable_progress_bar()
    with naming_what_is_written(directory):
        policy.model.save_pretrained(directory)
        policy.tokenizer.save_pretrained(directory)


def summary(
    config: RlhfConfig,
    setup: Setup,
    properties: dict[str, float],
    before: ProbeResult,
    after: ProbeResult,
    seconds: float,
) -> dict[str, Any]:
    """The results of the run, as sweeps and reports read them."""
    settings, values = config.policy_gradient, after.metrics

    def increase(name: str) -> float:
        return values[name] - before.metrics[name]

    return {
        "arm": config.reward.name,
        "policy": setup.policy.label,
        "policy_address": setup.policy.address,
        "task": setup.task.name,
        "seed": config.seed,
        "steps": settings.steps,
        "ground_truth_increase": increase("probe/ground_truth_reward"),
        **({"proxy_is_constant": 1.0} if properties["reward/zero_variance_share"] == 1 else {}),
        "proxy_increase": increase("probe/normalised_proxy_reward"),
        **values,
        "completions_per_second": settings.steps * settings.completions_per_step / max(seconds, 1e-9),
        "training_seconds": seconds,
        "properties": properties,
        "objective": -values["probe/ground_truth_reward"],
    }
