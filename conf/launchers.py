"""Where the jobs of a sweep run: Hydra's launchers, with this package's settings for them in conf/hydra/launcher/.

Each of those files extends the schema that the plug-in of the same name brings, so that a misspelt setting is refused.
The plug-ins of most launchers are extras of this package.
"""

from __future__ import annotations

import difflib
import shutil
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "hydra" / "launcher"
# Hydra's own plug-ins that are no part of the usual installation: option, or beginning of it -> extra of this package.
PLUGIN_EXTRAS = {
    "hydra/launcher/submitit": "submitit",
    "hydra/launcher/ray": "ray",
    "hydra/sweeper/optuna": "optuna",
}


def launcher_names() -> list[str]:
    """The launchers that `hydra/launcher=` takes: Hydra's own, and those of conf/hydra/launcher/."""
    return ["basic", *sorted(path.stem for path in FOLDER.glob("*.yaml"))]


def register_launcher_schemas() -> None:
    """Give the plug-in's schema of every launcher `name` the name `name_schema`.

    A file of ours hides what the plug-in registered under the same name, and could not extend it.
    """
    from hydra.core.config_store import ConfigStore  # completion and help ask this module too, and must be quick
    from hydra.core.plugins import Plugins
    from hydra.plugins.config_source import ConfigLoadError

    Plugins.instance()  # finds the plug-ins; they register their schemas
    store = ConfigStore.instance()
    for path in FOLDER.glob("*.yaml"):
        try:
            schema = store.load(f"hydra/launcher/{path.name}")
        except ConfigLoadError:
            continue  # done before, or an extra that is not installed
        store.store(f"{path.stem}_schema", schema.node, group="hydra/launcher", provider=schema.provider)
        # Hydra warns of a file and a schema with one name: its older way to match them.
        del store.repo["hydra"]["launcher"][path.name]


def explain_missing_plugin(group: str, option: str) -> str | None:
    """One line about a launcher or sweeper that Hydra could not find; None where there is nothing to add."""
    option = option.removesuffix("_schema")
    for start, extra in PLUGIN_EXTRAS.items():
        if f"{group}/{option}".startswith(start):
            return f"{group}={option} needs an extra: pip install 'rl-exp[{extra}]'"
    if group == "hydra/launcher":
        near = difflib.get_close_matches(option, launcher_names(), n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]}?" if near else ""
        return f"{group}={option} does not exist: use one of {', '.join(launcher_names())}.{hint}"
    return None


def target_of(launcher: Any) -> str:
    """The class of a composed launcher, without its module: `BasicLauncher`, `SlurmLauncher`, ..."""
    return str(launcher.get("_target_", "")).rsplit(".", 1)[-1]


def why_not_here(launcher: Any) -> str | None:
    """Why this machine cannot launch, in one line; None where it can."""
    if target_of(launcher) == "SlurmLauncher" and not (shutil.which("sbatch") and shutil.which("srun")):
        return (
            "hydra/launcher=submitit_slurm needs sbatch and srun, and this machine has none: run it on a login node of "
            "the cluster, or take hydra/launcher=submitit_local"
        )
    return None
