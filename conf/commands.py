"""The commands that Hydra configures: name, schema, x-axis, and where their parts lie where they share another's.

Light: a schema is imported when it is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True)
class Command:
    """`rl-exp <name>`: composes conf/<config_name>.yaml into its schema, and calls experiments/<experiment>.py.

    The function there has the experiment's name, and runs land in outputs/<experiment>/. What is left empty is `name`
    with underscores. A command that only sweeps another's jobs (rlhf-sweep) names that `experiment`, and has the module
    with its own `compare` as `comparison`.
    """

    name: str
    schema_module: str
    schema_name: str
    step_name: str  # the x-axis of its metrics
    config_name: str = ""  # of conf/<config_name>.yaml
    experiment: str = ""
    starts_from: str | None = None  # a command whose finished run it needs: the policy
    comparison: str = ""  # experiments/<comparison>.py may have `compare(runs, sweep_directory, console)`

    def __post_init__(self) -> None:
        own = self.name.replace("-", "_")
        for attribute, default in (("config_name", own), ("experiment", own), ("comparison", self.experiment or own)):
            object.__setattr__(self, attribute, getattr(self, attribute) or default)

    def schema(self) -> type:
        """The dataclass that the composed configuration must fit. Importing it registers it with Hydra."""
        schema: type = getattr(import_module(self.schema_module), self.schema_name)
        return schema


COMMANDS = {
    command.name: command
    for command in (
        Command("train", "conf.train_config", "TrainConfig", step_name="tokens"),
        Command("bench", "conf.bench_config", "BenchConfig", step_name="cell"),
        Command("controlled", "conf.controlled_config", "ControlledConfig", step_name="step"),
        Command(
            "reward-eval", "conf.reward_eval_config", "RewardEvalConfig", step_name="reward_model", starts_from="train"
        ),
        Command("rlhf", "conf.rlhf_config", "RlhfConfig", step_name="step", starts_from="train"),
        Command(
            "rlhf-sweep",
            "conf.rlhf_config",
            "RlhfConfig",
            step_name="step",
            starts_from="train",
            experiment="rlhf",
            comparison="rlhf_sweep",
        ),
    )
}
