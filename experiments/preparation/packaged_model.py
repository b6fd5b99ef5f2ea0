"""Pretrained models that come in a Python package, made into model folders of transformers once: no hub is needed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from conf.rlhf_config import PACKAGE_MODULES, ModelPackage
from experiments.runs.artifacts import Artifact
from experiments.runs.files import sha256_unless_unchanged
from experiments.runs.run import Run

FORMAT = 1  # raise it whenever an equal file would give other weights or another tokenizer
NAMES = {ModelPackage.smollm2: "SmolLM2-135M-Instruct"}


def packaged_model(package: ModelPackage, run: Run) -> Artifact:
    """The model folder of the GGUF file in `package`: safetensors in fp32, tokenizer and chat template."""
    module, model = PACKAGE_MODULES[package][0], NAMES[package]
    spec = find_spec(module)
    assert spec is not None
    (file,) = (path for place in spec.submodule_search_locations or () for path in Path(place).glob("*.gguf"))
    recipe = {"model": model, "file": file.name, "sha256": sha256_unless_unchanged(file), "format": FORMAT}

    def make(folder: Path) -> None:
        run.console.print(f"[bold]policy[/]    {model} is read from {file.name}, once", highlight=False)
        save_gguf_as_model_folder(file, folder)

    return run.artifacts.get_or_make("model", recipe, make)


def save_gguf_as_model_folder(file: Path, folder: Path) -> None:
    """Write the model in the GGUF `file` as transformers' `from_pretrained` reads it: dequantised to fp32."""
    disable_progress_bar()
    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    del model.config.quantization_config  # the weights are plain numbers now
    model.hf_quantizer = None  # type: ignore[assignment]  # no module: torch types all attributes as such
    model.save_pretrained(folder)
