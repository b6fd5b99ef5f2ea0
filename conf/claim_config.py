"""The ledger of claims: one YAML of conf/claim/ for each, which lists the statements that its verdict follows from."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.compose import suggestion
from experiments.controlled_experiments import statements as controlled_statements
from experiments.reports import model_statements, rlhf_statements
from experiments.reward_metrics.statements import Statement

CLAIM_DIRECTORY = Path(__file__).resolve().parent / "claim"
STATEMENTS: dict[str, Statement] = {
    statement.id: statement
    for module in (model_statements, controlled_statements, rlhf_statements)
    for statement in module.STATEMENTS
}


@dataclass
class EvidenceConfig:
    """What a command leaves, here or under outputs/reference/."""

    command: str  # that makes it; local evidence is what this command left, whatever its seed
    file: str  # in its run or sweep directory: statements.json, comparison.json, results.json
    reference: str  # folder below outputs/reference/ with published evidence of the same kind
    scale: str  # in words: what was trained or measured
    statements: list[str]  # ids of STATEMENTS that it is to show
    figure: str = ""  # in figures/
    alternatives: dict[str, str] = field(default_factory=dict)  # smaller commands that leave the same, and references


@dataclass
class ClaimConfig:
    """A claim of a paper, or of our own, in our words, what the paper measured, and how it is tested here."""

    title: str
    statement: str
    paper: str
    source: str  # section, table, figure
    published: str  # the paper's figures
    number: int  # order in the ledger
    evidence: dict[str, EvidenceConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        listed = [name for evidence in self.evidence.values() for name in evidence.statements]
        for name in listed:
            if name not in STATEMENTS:
                raise ValueError(f"statement {name} does not exist.{suggestion(name, STATEMENTS)}")
        if any(len(set(evidence.statements)) < len(evidence.statements) for evidence in self.evidence.values()):
            raise ValueError(f"claim {self.title!r} lists a statement twice for the same evidence")
        if not any(STATEMENTS[name].counts for name in listed):
            raise ValueError(f"claim {self.title!r} has no statement that counts: no verdict could follow")


@cache
def load_claims(directory: Path = CLAIM_DIRECTORY) -> dict[str, ClaimConfig]:
    """All claims by the name of their file, in the order of their numbers. ValueError names a file that is no claim."""
    claims = {path.stem: load_claim(path) for path in sorted(directory.glob("*.yaml"))}
    return dict(sorted(claims.items(), key=lambda item: item[1].number))


def load_claim(path: Path) -> ClaimConfig:
    """One claim. ValueError where the file does not fit."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(ClaimConfig), OmegaConf.load(path))
        claim = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, ValueError, OSError, yaml.YAMLError) as error:
        raise ValueError(
            f"{path.name} is not a claim: {(str(error).splitlines() or [type(error).__name__])[0]}"
        ) from error
    assert isinstance(claim, ClaimConfig)
    return claim


def require_claim(name: str, claims: dict[str, ClaimConfig]) -> ClaimConfig:
    """The claim of that name; ValueError with the names there are."""
    if name not in claims:
        raise ValueError(f"claim {name} does not exist: there are {', '.join(claims)}.{suggestion(name, claims)}")
    return claims[name]
