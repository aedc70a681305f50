"""`torch.export`, and from its program to the IR."""

from __future__ import annotations

import contextlib
import gc
import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

import torch
import torch.export
import torch.fx.experimental._config as symbolic_shapes_config
import torch.utils._pytree as pytree
from torch.nn.modules import transformer

from cgptc.frontend.aten.emit import DomainError
from cgptc.frontend.aten.importer import import_program
from cgptc.frontend.decomposition import Decomposer
from cgptc.frontend.dynamic_sizes import Bounds, DynamicSizes, Leaf
from cgptc.frontend.fx_program import view_program
from cgptc.frontend.hf_attention import whole_attention
from cgptc.frontend.leaf_names import leaf_name
from cgptc.frontend.live_weights import module_weights
from cgptc.frontend.result_nest import result_of
from cgptc.frontend.specialisation import Guard, record_guards
from cgptc.frontend.torch_dtypes import FROM_TORCH
from cgptc.frontend.weightless import parameters_on_cpu
from cgptc.ir.diagnostics import CompileError, UsageError
from cgptc.ir.graph import Graph
from cgptc.ir.result_tree import ResultTree
from cgptc.ir.weights import Weight, WeightStore

Axes = Mapping[str, Mapping[int, str]]
"""By input name: axis → symbol name."""


@dataclass(frozen=True)
class Captured:
    """A graph, and how what the module returns is nested, where that is known."""

    graph: Graph
    result: ResultTree | None


class CaptureOptions(TypedDict, total=False):
    """See `capture_with_result`."""

    dynamic: Mapping[str, Bounds | None] | None
    axes: Axes | None
    weights: Mapping[str, Weight] | None
    store: WeightStore | None
    output_names: Sequence[str] | None
    name: str
    root: str


def capture(
    module: torch.nn.Module, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Unpack[CaptureOptions]
) -> Graph:
    """The graph alone of `capture_with_result`."""
    return capture_with_result(module, args, kwargs, **options).graph


def capture_with_result(
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
) -> Captured:
    """The graph of a module for inputs like the examples, and how its outputs belong together.

    ``dynamic`` names the sizes that stay symbolic, with inclusive bounds or None; ``axes`` says where they occur (by default axis 0
    of every tensor is ``batch`` and axis 1 of every token-like one is ``seq``). Each is re-asserted: `CompileError` names the source
    line that fixed a size. ``weights`` and ``store`` stand in for the module's own parameters, which may then be on the meta device.
    ``root`` is the attribute of a wrapper module to leave out of module paths. Nothing is copied: the graph refers to the weights.
    """
    requested = dict(dynamic or {})
    bound_inputs(module, args, kwargs or {})  # says what does not fit
    args, kwargs = _distinct((tuple(args), dict(kwargs or {})))
    leaves = _leaves(module, args, kwargs, axes, requested)
    program = _export(module, args, kwargs, leaves)

    def explain() -> list[Guard]:
        with record_guards() as guards:
            _export(module, args, kwargs, leaves)
        return guards

    sizes = DynamicSizes(leaves, requested, explain)
    found = sizes.symbols(program)
    constants = {key: value for key, value in program.constants.items() if isinstance(value, torch.Tensor)}
    references = module_weights(module, constants, weights, store)
    titles = _output_names(program, output_names)
    default_float = FROM_TORCH[torch.get_default_dtype()]
    for _ in range(64):
        view = view_program(program, found, references.weights, [leaf.name for leaf in leaves], titles, root=root)
        try:
            graph = import_program(view, name=name, store=references.store, default_float=default_float, decompose=Decomposer(found))
            return Captured(graph, result_of(program))
        except DomainError as error:
            found = sizes.narrowed(found, error)
    raise AssertionError("the bounds of a symbol never settled")


def _leaves(
    module: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], axes: Axes | None, requested: Mapping[str, Bounds | None]
) -> list[Leaf]:
    """The example inputs, flat, with names from ``forward``'s parameters."""
    leaves: list[Leaf] = []
    for start, tree in [*zip(_positional_names(module, len(args)), args, strict=True), *kwargs.items()]:
        for path, value in pytree.tree_flatten_with_path(tree)[0]:
            name = leaf_name(start, path)
            chosen = axes.get(name, {}) if axes is not None else _token_axes(value)
            leaves.append(Leaf(name, value, {axis: symbol for axis, symbol in chosen.items() if symbol in requested}))
    present = {symbol for leaf in leaves for symbol in leaf.axes.values()}
    missing = [symbol for symbol in requested if symbol not in present]
    if missing:
        raise UsageError("unused-dynamic", f"no input has an axis '{missing[0]}'", fix="name the axis of an input, or drop the option")
    return leaves


def bound_inputs(module: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments by ``forward``'s parameters; those of a ``*`` parameter are a tuple."""
    try:
        return dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments)
    except TypeError as error:
        raise UsageError("example-inputs", f"the example inputs do not fit {type(module).__name__}.forward: {error}") from error


def _distinct(arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The example inputs with a tensor of its own in every place: torch.export takes one that is given twice for one input."""
    seen: set[int] = set()

    def own(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        repeated = id(value) in seen
        seen.add(id(value))
        return value.clone() if repeated else value

    distinct: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_map(own, arguments)
    return distinct


def _positional_names(module: torch.nn.Module, count: int) -> list[str]:
    """Names for positional arguments; those of a ``*`` parameter are numbered."""
    parameters = list(inspect.signature(module.forward).parameters.values())
    names = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_POSITIONAL]
    star = next((index for index, parameter in enumerate(parameters) if parameter.kind is parameter.VAR_POSITIONAL), None)
    if star is not None:
        names = [*names[:star], *(f"{parameters[star].name}_{index}" for index in range(count - star))]
    return names[:count]


def _token_axes(value: Any) -> dict[int, str]:
    """Axis 0 is the batch; axis 1 the sequence, except of a matrix of features."""
    if not isinstance(value, torch.Tensor) or value.ndim == 0:
        return {}
    if value.ndim == 1 or (value.ndim == 2 and value.is_floating_point()):
        return {0: "batch"}
    return {0: "batch", 1: "seq"}


@contextlib.contextmanager
def _export_settings() -> Iterator[None]:
    """Sizes of 0 and 1 are not special, fused fast paths are off, and no gradients are traced.

    `nn.TransformerEncoder` compares its mask with a causal one to choose a faster kernel; a symbolic mask has no answer to that, and the
    mask itself says the same.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    detect = transformer._detect_is_causal_mask
    torch.backends.mha.set_fastpath_enabled(False)
    transformer._detect_is_causal_mask = lambda mask, is_causal=None, size=None: is_causal is True
    try:
        with symbolic_shapes_config.patch(backed_size_oblivious=True), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        transformer._detect_is_causal_mask = detect


@contextlib.contextmanager
def _heap_set_aside() -> Iterator[None]:
    """Keep collections from walking what is there already: PyTorch alone is a million objects, and tracing makes much garbage."""
    if gc.get_freeze_count():  # somebody set it aside for longer
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _export(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], leaves: Sequence[Leaf]) -> torch.export.ExportedProgram:
    """Raises `CompileError` for whatever the model or torch.export raises."""
    automatic = torch.export.Dim.AUTO
    shapes = [dict.fromkeys(leaf.axes, automatic) if leaf.axes else None for leaf in leaves]
    _, spec = pytree.tree_flatten((args, kwargs))
    shape_args, shape_kwargs = pytree.tree_unflatten(shapes, spec)
    dynamic_shapes = dict(inspect.signature(module.forward).bind(*shape_args, **shape_kwargs).arguments)
    try:
        with _heap_set_aside(), _export_settings(), parameters_on_cpu(module), whole_attention(module):
            return torch.export.export(module, args, kwargs, dynamic_shapes=dynamic_shapes, strict=False)
    except (CompileError, RecursionError, MemoryError):
        raise
    except Exception as error:  # whatever the user's code raises
        lines = str(error).strip().splitlines()
        raise CompileError(
            "capture-failed",
            f"torch.export could not capture {type(module).__name__}: {type(error).__name__}: {lines[0] if lines else ''}",
            fix="the model must run on the example inputs without branching on data",
            details=[f"  {line}" for line in lines[1:12]],
        ) from error


def _output_names(program: torch.export.ExportedProgram, given: Sequence[str] | None) -> list[str]:
    """Names of the output's leaves: given, or the keys of what the module returns, or ``output``."""
    spec = program.call_spec.out_spec
    count = spec.num_leaves
    if given is not None:
        if len(given) != count:
            raise UsageError("output-names", f"{len(given)} output names for {count} outputs")
        return list(given)
    tree = pytree.tree_unflatten(list(range(count)), spec)
    names = (leaf_name("", path).removeprefix("_") for path, _ in pytree.tree_flatten_with_path(tree)[0])
    return [f"output_{name}" if name[:1].isdigit() else name or "output" for name in names]
