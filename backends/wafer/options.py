"""The options of the wafer target, which are the command line's flags for it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches

from cgptc.backends.wafer.kernels.fragment import Grid
from cgptc.ir.diagnostics import UsageError

STRATEGIES = ("auto", "pipeline", "resident", "weight-streaming")
OBJECTIVES = ("throughput", "latency", "area")
DTYPES = ("f32", "f16")


@dataclass(frozen=True)
class WaferOptions:
    """``machine`` is a preset or a file; ``grid`` fixes every region's grid, as ``WxH``; ``dtype`` None is the model's own, f32 where the
    wafer has no such; ``context`` limits the tokens of a row, for which caches are sized. ``prefill_chunk`` fixes how many tokens of a
    prompt are read at once, 1 for one by one.
    """

    machine: str = "wse2"
    execution_strategy: str = "auto"
    objective: str = "throughput"
    grid: str | None = None
    dtype: str | None = None
    context: int | None = None
    prefill_chunk: int | None = None

    def __post_init__(self) -> None:
        _require("--execution-strategy", self.execution_strategy, STRATEGIES)
        _require("--objective", self.objective, OBJECTIVES)
        if self.dtype is not None:
            _require("--dtype", self.dtype, DTYPES)
        if self.context is not None and self.context < 1:
            raise UsageError("bad-value", f"--context {self.context} holds no token", fix="give 1 or more")
        if self.prefill_chunk is not None and self.prefill_chunk < 1:
            raise UsageError("bad-value", f"--prefill-chunk {self.prefill_chunk} reads no token", fix="give 1 or more")
        _ = self.chosen_grid

    @property
    def chosen_grid(self) -> Grid | None:
        """The grid asked for. `UsageError` for a text that is none."""
        if self.grid is None:
            return None
        match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", self.grid)
        if match is None or not int(match[1]) or not int(match[2]):
            raise UsageError("bad-value", f"--grid '{self.grid}' is no size", fix="write columns x rows, such as 16x16")
        return Grid(int(match[2]), int(match[1]))


def _require(what: str, word: str, known: tuple[str, ...]) -> None:
    if word not in known:
        close = get_close_matches(word, known, n=1)
        fix = f"did you mean '{close[0]}'?" if close else f"choose one of {', '.join(known)}"
        raise UsageError("bad-value", f"unknown {what} '{word}'", fix=fix)
