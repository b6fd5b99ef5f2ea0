"""What a model folder says of itself in its JSON files, asked before anything heavy is imported. Standard library only.

What is wrong with a folder that the user named is said before a run begins; what only loading shows, while it runs.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from experiments.runs.files import read_json

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "spiece.model")
NO_LANGUAGE_MODELS = ("Classification", "QuestionAnswering", "MaskedLM")  # how the names of such classes end
PLAIN_TOKENIZERS = ("PreTrainedTokenizerFast", "TokenizersBackend")  # classes that have no special tokens by default


def require_packages(setting: str, modules: tuple[str, ...], extra: str) -> None:
    """ValueError where one of the `modules` that `setting` needs is not installed."""
    for module in modules:
        if find_spec(module) is None:
            package = module.replace("_", "-")
            raise ValueError(f"{setting} needs the package {package}: pip install 'rl-exp[{extra}]'")


def check_policy_folder(setting: str, path: str | None) -> None:
    """ValueError where the folder at `path` (hub names and null pass) is no causal language model with a tokenizer."""
    folder = _folder(path)
    if folder is None:
        return
    _check_tokenizer(setting, folder)
    if (architecture := _architecture(folder)).endswith(NO_LANGUAGE_MODELS):
        raise ValueError(
            f"{setting}={folder} is a {architecture}, which writes no text: name a causal language model, such as the "
            "model folder of a run of rl-exp train"
        )


def check_classifier_folder(setting: str, path: str | None, label: int | None) -> None:
    """ValueError where the folder at `path` (hub names pass) is no sequence classifier with a tokenizer and a reward.

    `label` is the output that is the reward, which a model with several outputs needs.
    """
    folder = _folder(path)
    if folder is None:
        return
    _check_tokenizer(setting, folder)
    architecture = _architecture(folder)
    if architecture and ("ForCausalLM" in architecture or "LMHead" in architecture):
        raise ValueError(
            f"{setting}={folder} is a {architecture}, which scores no text: name a sequence classifier, whose "
            "architecture ends in ForSequenceClassification"
        )
    labels = _mapping(folder / "config.json").get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})  # transformers' default
    several = isinstance(labels, dict) and len(labels) > 1 and architecture.endswith("ForSequenceClassification")
    if several and label is None:
        raise ValueError(
            f"{setting}={folder} has {len(labels)} outputs ({', '.join(map(str, labels.values()))}): say which is the "
            f"reward with {setting.removesuffix('path')}label"
        )


def _check_tokenizer(setting: str, folder: Path) -> None:
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ValueError(
            f"{setting}={folder} holds no tokenizer (none of {', '.join(TOKENIZER_FILES)}): save the model's tokenizer "
            "there, tokenizer.save_pretrained(folder)"
        )
    tokens = _mapping(folder / "special_tokens_map.json") | _mapping(folder / "tokenizer_config.json")
    if tokens.get("tokenizer_class") in PLAIN_TOKENIZERS and not tokens.get("eos_token"):
        raise ValueError(
            f"{setting}={folder} has a tokenizer without an end-of-text token: name one as eos_token in its "
            "tokenizer_config.json, as a text ends with it"
        )


def _folder(path: str | None) -> Path | None:
    return Path(path) if path and Path(path).is_dir() else None


def _architecture(folder: Path) -> str:
    """The class that wrote the folder; empty where its config.json does not say."""
    names = _mapping(folder / "config.json").get("architectures")
    return str(names[0]) if isinstance(names, list) and names else ""


def _mapping(path: Path) -> dict[str, Any]:
    """The file's JSON object; {} where there is none: what is malformed, loading says."""
    try:
        value = read_json(path)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
