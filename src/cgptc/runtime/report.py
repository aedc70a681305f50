"""What a compile did, as ``report.json`` holds it: counts and places, never times, so that equal inputs give equal bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cgptc.artifact.canonical import Json


@dataclass(frozen=True)
class Finding:
    """Something that a pass did or nearly did: the pass, what it looked for, where in the model, and why not."""

    pass_name: str
    subject: str
    where: str
    reason: str = ""


@dataclass(frozen=True)
class FusionCount:
    """How many of a subject, such as "attention", are one operation, of how many there are."""

    subject: str
    fused: int
    total: int


@dataclass(frozen=True)
class Fusions:
    """What was rewritten, what nearly was, and how much is whole in the end, whoever made it so."""

    done: tuple[Finding, ...] = ()
    missed: tuple[Finding, ...] = ()
    counts: tuple[FusionCount, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """As the report holds it."""
        return {
            "counts": {each.subject: [each.fused, each.total] for each in self.counts},
            "done": [_row(each) for each in self.done],
            "missed": [_row(each) for each in self.missed],
        }


@dataclass(frozen=True)
class Report:
    """``model`` describes the input, ``graph`` counts operations, ``counters`` the passes' work, ``backend`` what was emitted,
    ``losses`` what was traded for size or speed, where anything was.
    """

    model: Mapping[str, Json] = field(default_factory=dict)
    graph: Mapping[str, Json] = field(default_factory=dict)
    fusions: Fusions = Fusions()
    counters: Mapping[str, Json] = field(default_factory=dict)
    backend: Mapping[str, Json] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    losses: Mapping[str, Json] = field(default_factory=dict)

    def to_json(self) -> dict[str, Json]:
        """The file's content."""
        return {
            "model": dict(self.model),
            "graph": dict(self.graph),
            "fusions": self.fusions.to_json(),
            "counters": dict(self.counters),
            "backend": dict(self.backend),
            "warnings": list(self.warnings),
            **({"losses": dict(self.losses)} if self.losses else {}),
        }

    @classmethod
    def from_json(cls, value: Json) -> Report:
        """What `to_json` gave; ValueError where it is something else."""
        if not isinstance(value, dict):
            raise ValueError("is not an object")
        fusions, warnings = _object(value, "fusions"), value.get("warnings")
        if not isinstance(warnings, list):
            raise ValueError("has no list under 'warnings'")
        return cls(
            _object(value, "model"),
            _object(value, "graph"),
            Fusions(_findings(fusions, "done"), _findings(fusions, "missed"), _counts(fusions)),
            _object(value, "counters"),
            _object(value, "backend"),
            tuple(map(str, warnings)),
            _object(value, "losses") if "losses" in value else {},
        )


def _row(finding: Finding) -> dict[str, Json]:
    return {"pass": finding.pass_name, "subject": finding.subject, "where": finding.where, "reason": finding.reason}


def _object(value: Mapping[str, Json], key: str) -> dict[str, Json]:
    found = value.get(key)
    if not isinstance(found, dict):
        raise ValueError(f"has no object under '{key}'")
    return found


def _counts(value: Mapping[str, Json]) -> tuple[FusionCount, ...]:
    found: list[FusionCount] = []
    for subject, row in _object(value, "counts").items():
        match row:
            case [int() as fused, int() as total]:
                found.append(FusionCount(subject, fused, total))
            case _:
                raise ValueError("has a row under 'counts' that is no count")
    return tuple(found)


def _findings(value: Mapping[str, Json], key: str) -> tuple[Finding, ...]:
    rows = value.get(key)
    if not isinstance(rows, list):
        raise ValueError(f"has no list under '{key}'")
    found: list[Finding] = []
    for row in rows:
        match row:
            case {"pass": str() as pass_name, "subject": str() as subject, "where": str() as where, "reason": str() as reason}:
                found.append(Finding(pass_name, subject, where, reason))
            case _:
                raise ValueError(f"has a row under '{key}' that is no finding")
    return tuple(found)
