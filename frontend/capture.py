"""`torch.export`, and from its program to the IR."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.export
import torch.fx.experimental._config as symbolic_shapes_config
import torch.utils._pytree as pytree

from cgptc.frontend.aten.emit import DomainError
from cgptc.frontend.aten.importer import import_program
from cgptc.frontend.fx_program import view_program
from cgptc.frontend.live_weights import module_weights
from cgptc.frontend.specialisation import record_guards
from cgptc.frontend.torch_dtypes import FROM_TORCH
from cgptc.frontend.weightless import parameters_on_cpu
from cgptc.ir.diagnostics import CompileError, UsageError
from cgptc.ir.dims import Symbol, symbols
from cgptc.ir.graph import Graph
from cgptc.ir.weights import Weight, WeightStore

Bounds = tuple[int, int]
DEFAULT_BOUNDS: Mapping[str, Bounds] = {"batch": (1, 1 << 16), "seq": (1, 1 << 20)}
"""Bounds of a symbol that is asked for without any; the upper one comes down to what the model is defined for."""

Axes = Mapping[str, Mapping[int, str]]
"""By input name: axis → symbol name."""


@dataclass(frozen=True)
class _Leaf:
    """One leaf of the example inputs."""

    name: str
    value: Any
    axes: Mapping[int, str]


def capture(
    module: torch.nn.Module,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic: Mapping[str, Bounds | None] | None = None,
    axes: Axes | None = None,
    weights: Mapping[str, Weight] | None = None,
    store: WeightStore | None = None,
    output_names: Sequence[str] | None = None,
    name: str = "main",
    root: str = "",
) -> Graph:
    """The graph of a module for inputs like the examples.

    ``dynamic`` names the sizes that stay symbolic, with inclusive bounds or None; ``axes`` says where they occur (by default axis 0
    of every tensor is ``batch`` and axis 1 of every token-like one is ``seq``). Each is re-asserted: `CompileError` names the source
    line that fixed a size. ``weights`` and ``store`` stand in for the module's own parameters, which may then be on the meta device.
    ``root`` is the attribute of a wrapper module to leave out of module paths. Nothing is copied: the graph refers to the weights.
    """
    requested = dict(dynamic or {})
    leaves = _leaves(module, args, kwargs or {}, axes, requested)
    program = _export(module, tuple(args), dict(kwargs or {}), leaves)
    constants = {key: value for key, value in program.constants.items() if isinstance(value, torch.Tensor)}
    references = module_weights(module, constants, weights, store)
    found = _symbols(program, leaves, requested, lambda: _explain(module, tuple(args), dict(kwargs or {}), leaves))
    titles = _output_names(program, output_names)
    default_float = FROM_TORCH[torch.get_default_dtype()]
    for _ in range(64):
        view = view_program(program, found, references.weights, [leaf.name for leaf in leaves], titles, root=root)
        try:
            return import_program(view, name=name, store=references.store, default_float=default_float)
        except DomainError as narrow:
            found = _narrowed(found, narrow, requested)
    raise AssertionError("the bounds of a symbol never settled")


def _leaves(
    module: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], axes: Axes | None, requested: Mapping[str, Bounds | None]
) -> list[_Leaf]:
    """The example inputs, flat, with names from ``forward``'s parameters."""
    leaves: list[_Leaf] = []
    for parameter, tree in _bound(module, args, kwargs).items():
        for path, value in pytree.tree_flatten_with_path(tree)[0]:
            name = _join(parameter, path)
            chosen = axes.get(name, {}) if axes is not None else _token_axes(value)
            leaves.append(_Leaf(name, value, {axis: symbol for axis, symbol in chosen.items() if symbol in requested}))
    present = {symbol for leaf in leaves for symbol in leaf.axes.values()}
    missing = [symbol for symbol in requested if symbol not in present]
    if missing:
        raise UsageError("unused-dynamic", f"no input has an axis '{missing[0]}'", fix="name the axis of an input, or drop the option")
    return leaves


def _bound(module: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments by ``forward``'s parameters; those of a ``*`` parameter are a tuple."""
    try:
        return dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments)
    except TypeError as error:
        raise UsageError("example-inputs", f"the example inputs do not fit {type(module).__name__}.forward: {error}") from error


def _join(start: str, path: Sequence[Any]) -> str:
    """A name for a leaf from the keys and indices that lead to it."""
    return "_".join([start, *(str(getattr(key, "idx", getattr(key, "key", getattr(key, "name", key)))) for key in path)])


def _token_axes(value: Any) -> dict[int, str]:
    """Axis 0 is the batch; axis 1 the sequence, except of a matrix of features."""
    if not isinstance(value, torch.Tensor) or value.ndim == 0:
        return {}
    if value.ndim == 1 or (value.ndim == 2 and value.is_floating_point()):
        return {0: "batch"}
    return {0: "batch", 1: "seq"}


@contextlib.contextmanager
def _export_settings() -> Iterator[None]:
    """Sizes of 0 and 1 are not special, fused fast paths are off, and no gradients are traced."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with symbolic_shapes_config.patch(backed_size_oblivious=True), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def _export(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], leaves: Sequence[_Leaf]
) -> torch.export.ExportedProgram:
    """Raises `CompileError` for whatever the model or torch.export raises."""
    automatic = torch.export.Dim.AUTO
    shapes = [dict.fromkeys(leaf.axes, automatic) if leaf.axes else None for leaf in leaves]
    _, spec = pytree.tree_flatten(_bound(module, args, kwargs))
    dynamic_shapes = pytree.tree_unflatten(shapes, spec)
    try:
        with _export_settings(), parameters_on_cpu(module):
            return torch.export.export(module, args, kwargs, dynamic_shapes=dynamic_shapes, strict=False)
    except (RecursionError, MemoryError):
        raise
    except Exception as error:  # whatever the user's code raises
        lines = str(error).strip().splitlines()
        raise CompileError(
            "capture-failed",
            f"torch.export could not capture {type(module).__name__}: {type(error).__name__}: {lines[0] if lines else ''}",
            fix="the model must run on the example inputs without branching on data",
            details=[f"  {line}" for line in lines[1:12]],
        ) from error


def _explain(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], leaves: Sequence[_Leaf]) -> list[str]:
    """The guards that a second export records: what was assumed of which size, and the user's line that did."""
    with record_guards() as guards:
        _export(module, args, kwargs, leaves)
    return [str(guard) for guard in guards]


def _symbols(
    program: torch.export.ExportedProgram, leaves: Sequence[_Leaf], requested: Mapping[str, Bounds | None], explain: Any
) -> dict[str, Symbol]:
    """Torch's symbols by name as the requested ones, bounds intersected with what torch proved."""
    placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    user = [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
    ours: dict[str, str] = {}
    for leaf, placeholder in zip(leaves, user, strict=True):
        for axis, symbol in leaf.axes.items():
            size = placeholders[placeholder].meta["val"].shape[axis]
            expression = str(size.node.expr) if isinstance(size, torch.SymInt) else str(size)
            if not expression.isidentifier():
                raise CompileError(
                    "specialised",
                    f"'{symbol}' (axis {axis} of '{leaf.name}') was asked to stay symbolic, but the model fixes it to {expression}",
                    fix="rewrite the line below so that it takes any size, or give that size",
                    details=[f"  --> {line}" for line in explain()],
                )
            ours[expression] = symbol
    ranges = {str(key): value for key, value in program.range_constraints.items()}
    low: dict[str, int] = {}
    high: dict[str, int] = {}
    for expression, symbol in ours.items():
        asked = requested[symbol] or DEFAULT_BOUNDS.get(symbol, (1, 1 << 20))
        proven_low, proven_high = _range(ranges.get(expression))
        low[symbol] = max(low.get(symbol, asked[0]), proven_low)
        high[symbol] = min(high.get(symbol, asked[1]), proven_high)
        if requested[symbol] is not None and (low[symbol], high[symbol]) != asked:
            raise CompileError(
                "out-of-bounds",
                f"'{symbol}' was asked to be {asked[0]}..{asked[1]}, but the model takes only {low[symbol]}..{high[symbol]}",
                fix=f"ask for --dynamic {symbol}={low[symbol]}..{high[symbol]}",
                details=[f"  --> {line}" for line in explain()],
            )
    return {expression: Symbol(symbol, low[symbol], high[symbol]) for expression, symbol in ours.items()}


def _range(found: Any) -> Bounds:
    """A sympy value range as integers; unbounded above is 2**62."""
    if found is None:
        return 0, 1 << 62
    text = str(found.upper)
    return int(found.lower), int(text) if text.isdigit() else 1 << 62


def _narrowed(found: Mapping[str, Symbol], narrow: DomainError, requested: Mapping[str, Bounds | None]) -> dict[str, Symbol]:
    """Symbols with the upper bound that keeps ``narrow.size`` within its limit."""
    names = symbols([narrow.size])
    if len(names) != 1:
        raise CompileError("out-of-bounds", f"a table of {narrow.limit} entries is indexed up to {narrow.size}", fix="bound the sizes")
    ((name, symbol),) = names.items()
    low, high = symbol.low, symbol.high
    while low < high:  # the largest value that fits; the size grows with its symbol
        middle = (low + high + 1) // 2
        if narrow.fits(name, middle):
            low = middle
        else:
            high = middle - 1
    if requested[name] is not None:
        raise CompileError(
            "out-of-bounds",
            f"'{name}' was asked to be up to {symbol.high}, but a table of the model has {narrow.limit} entries",
            fix=f"ask for --dynamic {name}={symbol.low}..{low}",
        )
    return {key: Symbol(value.name, value.low, low) if value.name == name else value for key, value in found.items()}


def _output_names(program: torch.export.ExportedProgram, given: Sequence[str] | None) -> list[str]:
    """Names of the output's leaves: given, or the keys of what the module returns, or ``output``."""
    spec = program.call_spec.out_spec
    count = spec.num_leaves
    if given is not None:
        if len(given) != count:
            raise UsageError("output-names", f"{len(given)} output names for {count} outputs")
        return list(given)
    tree = pytree.tree_unflatten(list(range(count)), spec)
    names = (_join("", path).removeprefix("_") for path, _ in pytree.tree_flatten_with_path(tree)[0])
    return [f"output_{name}" if name[:1].isdigit() else name or "output" for name in names]
