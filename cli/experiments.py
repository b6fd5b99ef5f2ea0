"""The commands that run an experiment: one table, for they differ in name, help and examples only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import typer

from cli.hydra_command import DryRun, Overrides, launch, settings, summarise_sweep


@dataclass(frozen=True)
class Entry:
    """What `rl-exp <name> --help` says."""

    name: str
    help: str
    examples: tuple[str, ...]
    has_summary: bool = False  # whether a sweep can be summarised while it runs


EXPERIMENTS = (
    Entry(
        "train",
        "Pretrain a small language model with one attention mechanism: MHA, MQA, GQA, GTA, MLA or GLA.",
        (
            "rl-exp train attention=gla model=tiny seed=1",
            "rl-exp train -m attention=gqa,gta,mla,gla seed=0,1",
            "rl-exp train -m attention=gqa,gta hydra/launcher=joblib",
            "rl-exp train data=local data.path=my_texts/ training.tokens=2000000",
            "rl-exp train attention=gta --dry-run",
        ),
    ),
    Entry(
        "bench",
        "Decode speed and cache bytes of every attention mechanism against the limit of this machine.",
        (
            "rl-exp bench",
            "rl-exp bench model=xl bench.mechanism=[gqa-4,gta-4] bench.context=[4096,16384] bench.kernel=[cpu,sdpa]",
            "rl-exp bench mode=generate generate.speculative=true",
            "rl-exp bench mode=generate bench.policy=outputs/train/<run id>/model",
            "rl-exp bench mode=serving serving.cache_megabytes=8 serving.arrivals_per_second=50",
            "rl-exp bench mode=plan model=llama_70b plan.device=h200",
            "rl-exp bench -m model=small,medium,xl",
        ),
    ),
    Entry(
        "controlled",
        "The theory of both reward papers on tabular and log-linear policies, with exact gradients, in seconds.",
        (
            "rl-exp controlled",
            "rl-exp controlled experiment=phase_diagram",
            "rl-exp controlled -m 'experiment=glob(*)'",
        ),
    ),
    Entry(
        "reward-eval",
        "Score reward models for a policy without training it: variance, accuracies, harm-aware accuracies, errors.",
        (
            "rl-exp reward-eval",
            "rl-exp reward-eval rewards=[ground_truth,on_policy_100,on_policy_0] probe.prompts=256",
            "rl-exp reward-eval task=constraints rewards=[partial_credit,binary_credit]",
            "rl-exp reward-eval -m attention=gqa,gla      # the same reward models for two policies",
            "rl-exp reward-eval policy.path=my_model/ tokenizer=hub tokenizer.path=my_model/",
            "rl-exp reward-eval --dry-run",
        ),
    ),
    Entry(
        "rlhf",
        "Train a policy against one reward model with policy gradient, and watch the ground truth.",
        (
            "rl-exp rlhf",
            "rl-exp rlhf reward=perfect_low_variance policy_gradient=grpo seed=1",
            "rl-exp rlhf task=constraints reward=partial_credit",
            "rl-exp rlhf attention=gla training.tokens=2000000      # another policy, trained first",
            "rl-exp rlhf policy.path=my_model/ tokenizer=hub tokenizer.path=my_model/",
            "rl-exp rlhf --dry-run",
        ),
    ),
    Entry(
        "rlhf-sweep",
        "Train policies against many reward models: which property of a reward model makes a good teacher?",
        (
            "rl-exp rlhf-sweep",
            "rl-exp rlhf-sweep preset=good_teacher",
            "rl-exp rlhf-sweep reward=on_policy_100,on_policy_0 seed=0,1,2 attention=gqa,gla",
            "rl-exp rlhf-sweep preset=good_teacher hydra/launcher=submitit_slurm",
            "rl-exp rlhf-sweep preset=good_teacher --summary       # of what is finished so far",
            "rl-exp rlhf-sweep --dry-run",
        ),
        has_summary=True,
    ),
)
Summary = Annotated[
    bool,
    typer.Option("--summary", help="Summarise the jobs that are finished, while others still run, and run nothing."),
]


def add_experiments(app: typer.Typer) -> None:
    """Give `app` a command for every entry."""
    for entry in EXPERIMENTS:
        app.command(entry.name, help=entry.help, **settings(entry.name, entry.examples))(_command(entry))


def _command(entry: Entry) -> Callable[..., None]:
    def run(overrides: Overrides = None, dry_run: DryRun = False) -> None:
        launch(entry.name, overrides, dry_run)

    def run_or_summarise(overrides: Overrides = None, dry_run: DryRun = False, summary: Summary = False) -> None:
        if summary:
            summarise_sweep(entry.name, overrides)
        launch(entry.name, overrides, dry_run)

    return run_or_summarise if entry.has_summary else run
