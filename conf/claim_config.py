"""The ledger of claims: one YAML of conf/claim/ for each, and the rules by which its verdict follows from numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.compose import suggestion
from experiments.reports.claim_rules import Rule

CLAIM_DIRECTORY = Path(__file__).resolve().parent / "claim"


@dataclass
class EvidenceConfig:
    """What a command leaves, here or under outputs/reference/."""

    command: str  # that makes it; local evidence is what this command left, whatever its seed
    file: str  # in its run or sweep directory: statements.json, comparison.json, results.json
    reference: str  # folder below outputs/reference/ with published evidence of the same kind
    scale: str  # in words: what was trained or measured
    figure: str = ""  # in figures/
    alternatives: dict[str, str] = field(default_factory=dict)  # smaller commands that leave the same, and references


@dataclass
class ClaimConfig:
    """A claim of a paper in our words, what the paper measured, and how it is tested here."""

    title: str
    statement: str
    paper: str
    source: str  # section, table, figure
    published: str  # the paper's figures
    number: int  # order in the ledger
    evidence: dict[str, EvidenceConfig] = field(default_factory=dict)
    rules: list[Rule] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.evidence or not self.rules:
            raise ValueError(f"claim {self.title!r} needs evidence and rules")
        for rule in self.rules:
            if rule.evidence not in self.evidence:
                known = ", ".join(self.evidence)
                raise ValueError(f"rule {rule.says!r} names evidence {rule.evidence}: the claim has {known}")
        if not any(rule.counts for rule in self.rules):
            raise ValueError(f"claim {self.title!r} has no rule that counts: no verdict could follow")


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
            f"{path.name} is no claim: {(str(error).splitlines() or [type(error).__name__])[0]}"
        ) from error
    assert isinstance(claim, ClaimConfig)
    return claim


def require_claim(name: str, claims: dict[str, ClaimConfig]) -> ClaimConfig:
    """The claim of that name; ValueError with the names there are."""
    if name not in claims:
        raise ValueError(f"claim {name} does not exist: there are {', '.join(claims)}.{suggestion(name, claims)}")
    return claims[name]
