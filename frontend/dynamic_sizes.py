"""The sizes that stay symbolic: torch's symbols as ours, with bounds that the model is proven valid for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.export

from cgptc.frontend.aten.emit import DomainError
from cgptc.frontend.size_guards import SizeGuard, size_guards
from cgptc.frontend.specialisation import Guard
from cgptc.ir.diagnostics import CompileError
from cgptc.ir.dims import Symbol, symbols

Bounds: TypeAlias = tuple[int, int]

DEFAULT_BOUNDS: Mapping[str, Bounds] = {"batch": (1, 1 << 16)}
"""Bounds of a symbol that is asked for without any; the upper one comes down to what the model is defined for."""

OTHER_BOUNDS: Bounds = (1, 1 << 20)
"""The same, of symbols that `DEFAULT_BOUNDS` does not name."""


@dataclass(frozen=True)
class Leaf:
    """One leaf of the example inputs, and the symbols of its axes."""

    name: str
    value: Any
    axes: Mapping[int, str]


@dataclass
class DynamicSizes:
    """What was asked for (``requested``: symbol → bounds or None), and how to find out why torch assumed more (``explain``, slow)."""

    leaves: Sequence[Leaf]
    requested: Mapping[str, Bounds | None]
    explain: Callable[[], Sequence[Guard]]
    _guards: Sequence[Guard] | None = None

    @property
    def guards(self) -> Sequence[Guard]:
        """The guards of a second export, recorded when first needed."""
        if self._guards is None:
            self._guards = self.explain()
        return self._guards

    def symbols(self, program: torch.export.ExportedProgram) -> dict[str, Symbol]:
        """Our symbols by the name that torch gave them. Raises `CompileError` for a size that was fixed, or bounds that cannot hold."""
        ours = self._names(program)
        asked_by_model = [guard for guard in size_guards(program) if guard.by_model]
        ranges = {str(key): value for key, value in program.range_constraints.items()}
        low: dict[str, int] = {}
        high: dict[str, int] = {}
        for theirs, symbol in ours.items():
            asked = self.requested[symbol] or DEFAULT_BOUNDS.get(symbol, OTHER_BOUNDS)
            proven_low, proven_high = _range(ranges.get(theirs))
            if proven_low > asked[0] and not self._decides([guard for guard in asked_by_model if guard.mentions(theirs)]):
                proven_low = asked[0]
            low[symbol] = max(low.get(symbol, asked[0]), proven_low)
            high[symbol] = min(high.get(symbol, asked[1]), proven_high)
            if self.requested[symbol] is not None and (low[symbol], high[symbol]) != asked:
                raise CompileError(
                    "out-of-bounds",
                    f"'{symbol}' was asked to be {asked[0]}..{asked[1]}, but the model takes only {low[symbol]}..{high[symbol]}",
                    fix=f"ask for --dynamic {symbol}={low[symbol]}..{high[symbol]}",
                    details=self._lines(theirs),
                )
        found = {theirs: Symbol(symbol, low[symbol], high[symbol]) for theirs, symbol in ours.items()}
        failing = self._decides([guard for guard in asked_by_model if guard.fails(found)])
        if failing:
            sizes = ", ".join(f"{theirs} is '{symbol}'" for theirs, symbol in ours.items())
            raise CompileError(
                "size-dependent",
                f"the model takes another path for some sizes ({sizes})",
                fix="rewrite the line below so that it serves every size, or bound the sizes with --dynamic",
                details=[f"  --> {guard}" for guard in failing],
            )
        return found

    def _decides(self, suspects: Sequence[SizeGuard]) -> list[SizeGuard]:
        """Those that Python code asked; a second export tells, only where there is a suspect."""
        if not suspects:
            return []
        lines = {guard.asker for guard in self.guards}
        return [guard for guard in suspects if (guard.file, guard.line) in lines]

    def _names(self, program: torch.export.ExportedProgram) -> dict[str, str]:
        placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
        inputs = [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
        ours: dict[str, str] = {}
        for leaf, placeholder in zip(self.leaves, inputs, strict=True):
            for axis, symbol in leaf.axes.items():
                size = placeholders[placeholder].meta["val"].shape[axis]
                theirs = str(size.node.expr) if isinstance(size, torch.SymInt) else str(size)
                if not theirs.isidentifier():
                    raise CompileError(
                        "specialised",
                        f"'{symbol}' (axis {axis} of '{leaf.name}') was asked to stay symbolic, but the model fixes it to {theirs}",
                        fix="rewrite the line below so that it takes any size, or give that size",
                        details=self._lines("", f"['{leaf.name}']"),
                    )
                if ours.setdefault(theirs, symbol) != symbol:
                    raise CompileError(
                        "specialised",
                        f"'{ours[theirs]}' and '{symbol}' were asked to be sizes of their own, but the model makes them equal",
                        fix=f"call both '{symbol}'",
                        details=self._lines("", f"['{leaf.name}']"),
                    )
        return ours

    def _lines(self, *parts: str) -> list[str]:
        """The guards to show: those that name a part, else all."""
        telling = [guard for guard in self.guards if any(part and part in guard.text for part in parts)]
        by_model = [guard for guard in telling if guard.asker]
        return [f"  --> {guard}" for guard in by_model or telling or self.guards]

    def narrowed(self, found: Mapping[str, Symbol], error: DomainError) -> dict[str, Symbol]:
        """Symbols with the upper bound that keeps a size within the table that it indexes."""
        names = symbols([error.size])
        if len(names) != 1:
            raise CompileError("out-of-bounds", f"a table of {error.limit} entries is indexed up to {error.size}", fix="bound the sizes")
        ((name, symbol),) = names.items()
        low, high = symbol.low, symbol.high
        if not error.fits(name, low):
            raise CompileError("out-of-bounds", f"a table of {error.limit} entries is indexed up to {error.size}", fix="make it larger")
        while low < high:  # the largest value that fits; the size grows with its symbol
            middle = (low + high + 1) // 2
            low, high = (middle, high) if error.fits(name, middle) else (low, middle - 1)
        if self.requested[name] is not None:
            raise CompileError(
                "out-of-bounds",
                f"'{name}' was asked to be up to {symbol.high}, but a table of the model has {error.limit} entries",
                fix=f"ask for --dynamic {name}={symbol.low}..{low}",
            )
        return {key: Symbol(value.name, value.low, low) if value.name == name else value for key, value in found.items()}


def _range(found: Any) -> Bounds:
    """A sympy value range as integers; unbounded above is 2**62."""
    if found is None:
        return 0, 1 << 62
    text = str(found.upper)
    return int(found.lower), int(text) if text.isdigit() else 1 << 62
