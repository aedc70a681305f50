"""``.pt2`` archives: read from their JSON and raw weights, nothing executed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cgptc.frontend.aten.emit import DomainError
from cgptc.frontend.aten.importer import import_program
from cgptc.frontend.exported_json import JsonProgram
from cgptc.frontend.readers import ExportedArchive, open_exported
from cgptc.frontend.source import CapturedModel, Request, find_companions
from cgptc.frontend.text_model import as_text_model
from cgptc.ir.diagnostics import UsageError
from cgptc.ir.dims import symbols
from cgptc.ir.graph import Graph

if TYPE_CHECKING:
    import torch


def capture_exported(path: Path, request: Request, hash_ahead: bool = False) -> CapturedModel:
    """The program in a ``.pt2``. Raises `CgptcError`."""
    if request.preset is not None or request.config is not None:
        raise UsageError("not-for-pt2", "a .pt2 says itself what it computes", file=str(path), fix="drop --preset and --config")
    archive = open_exported(path)
    if hash_ahead:
        archive = archive.hashed_ahead()
    try:
        return _captured(path, archive, request)
    except BaseException:
        archive.close()
        raise


def _captured(path: Path, archive: ExportedArchive, request: Request) -> CapturedModel:
    reader = JsonProgram(archive.program, str(path))
    graph = _imported(reader, archive)
    _require_sizes(graph, request, str(path))
    text = as_text_model(graph)
    warnings: tuple[str, ...] = ()
    if reader.lowered:
        names = " and ".join(f"'{name}'" for name in reader.lowered)
        warnings = (f"warning[length-one]: torch.export assumed {names} to be at least 2; 1 is taken to work alike",)
    parameters = {archive.weights[name] for name in archive.parameters}
    return CapturedModel(
        graph,
        "ExportedProgram",
        "a torch.export program",
        sum(weight.type.size for weight in parameters if isinstance(weight.type.size, int)),
        0,
        text,
        digest=archive.digest,
        companions=find_companions(path.parent) if text is not None else {},
        warnings=warnings,
        reference=lambda: _reference(archive, str(path)),
        close=archive.close,
    )


def _imported(reader: JsonProgram, archive: ExportedArchive) -> Graph:
    """The graph, with upper bounds brought down to where the model is defined."""
    weights = {**archive.weights, **archive.constants}
    limits: dict[str, int] = {}
    for _ in range(64):
        view = reader.view(weights, limits)
        try:
            with reader.checking():
                return import_program(view, store=archive.store)
        except DomainError as error:
            (symbol,) = symbols([error.size]).values()
            low, high = symbol.low, symbol.high
            while low < high:  # the largest size that still fits
                middle = (low + high + 1) // 2
                low, high = (middle, high) if error.fits(symbol.name, middle) else (low, middle - 1)
            limits[symbol.name] = low
    raise AssertionError("the bounds of a symbol never settled")


def _require_sizes(graph: Graph, request: Request, file: str) -> None:
    """Sizes were decided at export: what is asked for must be what the file has."""
    for name in request.fixed:
        raise UsageError("fixed-at-export", f"the sizes of a .pt2 were decided at export, '{name}' too", file=file, fix=f"drop --{name}")
    found = graph.symbols
    for name, (low, high) in request.dynamic.items():
        if name not in found:
            raise UsageError("fixed-at-export", f"'{name}' is not symbolic in the file", file=file, fix="export it with that size dynamic")
        if low < found[name].low or high > found[name].high:
            raise UsageError(
                "out-of-bounds",
                f"'{name}' was asked to be {low}..{high}, the file takes {found[name].low}..{found[name].high}",
                file=file,
                fix="ask for less, or export again",
            )


def _reference(archive: ExportedArchive, file: str) -> torch.nn.Module:
    from cgptc.frontend.exported_module import ExportedModule

    return ExportedModule(JsonProgram(archive.program, file).view({**archive.weights, **archive.constants}, {}), archive.store)
