"""The commands that Hydra configures: name, schema, x-axis. Light: a schema is imported when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True)
class Command:
    """`rl-exp <name>`: composes conf/<name>.yaml into `schema`, and calls `function` of experiments/<name>.py."""

    name: str
    schema_module: str
    schema_name: str
    step_name: str  # the x-axis of its metrics

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
    )
}
