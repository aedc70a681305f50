"""What tracing assumed of sizes: the guards of torch's shape environment, and whether they hold for every size that was asked for."""

from __future__ import annotations

import itertools
import linecache
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
import torch
import torch.export

from cgptc.frontend.source_lines import package_path
from cgptc.ir.dims import Symbol

_SAMPLES = (0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 31, 64, 1000)
"""Distances from the lower bound at which an assumption is tried; products of small factors show at the first few."""

_MOST_COMBINATIONS = 256

_BROADCASTS_ONLY = {("transformers/masking_utils.py", "if batch_size != position_ids.shape[0]:")}
"""Questions of a library whose two branches give the same: one stretches what has the right size already. By the line's text, since its
number differs between versions."""


@dataclass(frozen=True)
class SizeGuard:
    """An assumption, and the line that asked.

    ``by_model``: a line of a model asked, or C++ that it called, so another answer might have taken another branch. Otherwise torch's own
    shape functions asked; their answers decide which fast path they take, never which operations are recorded, and the importer infers
    every shape itself.
    """

    expression: Any
    file: str
    line: int
    by_model: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: assumes {self.expression}"

    def mentions(self, symbol: str) -> bool:
        """Whether the assumption is about this one of torch's symbols."""
        return any(str(free) == symbol for free in self.expression.free_symbols)

    def fails(self, symbols: Mapping[str, Symbol]) -> bool:
        """Whether it is false for some sampled sizes within their bounds; ``symbols`` are ours by torch's names."""
        free = sorted(self.expression.free_symbols, key=str)
        if not free or any(str(symbol) not in symbols for symbol in free):
            return False
        names = list(dict.fromkeys(symbols[str(symbol)].name for symbol in free))
        bounds = {symbol.name: symbol for symbol in symbols.values()}
        for sizes in itertools.islice(itertools.product(*(_sizes(bounds[name]) for name in names)), _MOST_COMBINATIONS):
            chosen = dict(zip(names, sizes, strict=True))
            values = {symbol: sympy.Integer(chosen[symbols[str(symbol)].name]) for symbol in free}
            if self.expression.xreplace(values) == sympy.false:
                return True
        return False


def _sizes(symbol: Symbol) -> Sequence[int]:
    return sorted({min(symbol.low + step, symbol.high) for step in _SAMPLES})


def size_guards(program: torch.export.ExportedProgram) -> list[SizeGuard]:
    """Every assumption, in terms of the symbols that are left, each once for each line."""
    environment = next(_environments(program), None)
    if environment is None:
        return []
    found: dict[SizeGuard, None] = {}
    for guard in environment.guards:
        expression = guard.expr.xreplace(environment.replacements)
        asker = guard.sloc.framework_loc
        path, line = str(getattr(asker, "filename", asker or "")), int(getattr(asker, "lineno", 0) or 0)
        file = package_path(path)
        if (file, linecache.getline(path, line).strip()) not in _BROADCASTS_ONLY:
            found[SizeGuard(expression, file, line, by_model=not file.startswith("torch/_"))] = None
    return list(found)


def _environments(program: torch.export.ExportedProgram) -> Iterator[Any]:
    for node in program.graph.nodes:
        value = node.meta.get("val")
        for size in value.shape if isinstance(value, torch.Tensor) else ():
            if isinstance(size, torch.SymInt):
                yield size.node.shape_env
