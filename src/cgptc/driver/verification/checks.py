"""What a verification found: one row per comparison."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cgptc.artifact.canonical import Json
from cgptc.ir.dtypes import f64
from cgptc.ir.op import Array
from cgptc.testing.tolerances import (
    T1_FACTOR,
    T3_RMSE_FACTOR,
    UNIT_ROUNDOFF,
    Agreement,
    Fault,
    NoiseFloor,
    largest_error,
    rmse,
    t1_fault,
    t3_fault,
    t3_largest,
    top1_agreement,
)


@dataclass(frozen=True)
class Check:
    """One comparison, under T3 unless it is in float64: what was run and which row was looked at, on how many tokens, in a batch of
    how many rows.
    """

    what: str
    length: int
    batch: int
    rmse: float
    rmse_bound: float
    largest: float
    largest_bound: float
    agreement: Agreement | None = None
    fault: Fault | None = None

    def to_json(self) -> dict[str, Json]:
        """As ``--json`` prints it."""
        agreement = self.agreement
        return {
            "what": self.what,
            "length": self.length,
            "batch": self.batch,
            "rmse": self.rmse,
            "rmse_bound": self.rmse_bound,
            "largest_error": self.largest,
            "largest_bound": self.largest_bound,
            "top1": [agreement.agreeing, agreement.decided, agreement.total] if agreement is not None else None,
            "passed": self.fault is None,
        }


@dataclass(frozen=True)
class Verification:
    """``file_count`` files of ``byte_count`` bytes are as they were written; ``checks`` were made; ``notes`` say how."""

    file_count: int
    byte_count: int
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = field(default_factory=tuple)

    def __str__(self) -> str:
        """One line: how many comparisons, and the one nearest to its bound."""
        if not self.checks:
            return f"{self.file_count} files as they were written"
        worst = max(self.checks, key=lambda check: check.largest / check.largest_bound if check.largest_bound else check.largest)
        state = f"{len(self.failed)} differ" if self.failed else "as PyTorch in float64"
        return f"{len(self.checks)} checks, {state}: largest error {worst.largest:.1e}, allowed {worst.largest_bound:.1e}"

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.fault is not None)


def compare_exactly(what: str, batch: int, expected: Array, actual: Array, depth: int) -> Check:
    """Hold a graph's float64 result ``[length, …]`` against PyTorch's, under T1."""
    fault = t1_fault(expected, actual, depth=depth)
    scale = float(np.max(np.abs(expected), initial=0.0, where=np.isfinite(expected)))
    bound = T1_FACTOR * depth * UNIT_ROUNDOFF[f64] * scale
    same_shape = expected.shape == actual.shape
    error, largest = (rmse(expected, actual), largest_error(expected, actual)) if same_shape else (float("nan"), float("nan"))
    return Check(what, len(expected), batch, error, bound, largest, bound, None, fault)


def compare(what: str, batch: int, expected: Array, actual: Array, floor: NoiseFloor, *, classes: bool) -> Check:
    """Hold a result ``[length, …]`` against the float64 reference. ``classes``: the last axis holds logits."""
    bound = t3_largest(floor)
    same_shape = expected.shape == actual.shape
    return Check(
        what,
        len(expected),
        batch,
        rmse(expected, actual) if same_shape else float("nan"),
        T3_RMSE_FACTOR * floor.rmse,
        largest_error(expected, actual) if same_shape else float("nan"),
        bound,
        top1_agreement(expected, actual, bound) if classes and same_shape and expected.shape[-1] > 1 else None,
        t3_fault(expected, actual, floor),
    )
