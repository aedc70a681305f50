"""The functions of ``import cgptc``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from cgptc.backends.registry import BUILT_IN, backend_names
from cgptc.ir.graph import Graph
from cgptc.runtime.compiled import Artifact

if TYPE_CHECKING:
    import torch

    from cgptc.driver.verification.checks import Verification

Examples: TypeAlias = Sequence[Any] | Mapping[str, Any]
"""Example inputs of a module: in the order of ``forward``'s parameters, or by their names."""

Dynamic: TypeAlias = Mapping[str, tuple[int, int] | None]
"""Sizes that stay symbolic, with inclusive bounds or None."""

Axes: TypeAlias = Mapping[str, Mapping[int, str]]
"""By input name: axis → name of its size."""


def targets() -> tuple[str, ...]:
    """Names of the targets that this installation can compile for."""
    return tuple(name for name in backend_names() if name not in BUILT_IN or find_spec(BUILT_IN[name]) is not None)


def capture(module: torch.nn.Module, args: Examples, *, dynamic: Dynamic | None = None, axes: Axes | None = None) -> Graph:
    """The graph of a module in evaluation mode, before any pass, for inputs like the examples.

    ``dynamic`` names the sizes that stay symbolic (by default ``batch`` and, of token-like inputs, ``seq``), ``axes`` says where they
    are (by default axis 0 is ``batch``, axis 1 of token-like inputs ``seq``). The graph refers to the module's parameters. Raises
    `CompileError` naming the line where a size was fixed, or all that cannot be imported.
    """
    from cgptc.frontend.live_module import capture_live

    return capture_live(module, args, dynamic=dynamic, axes=axes)


def compile(  # noqa: A001 (the verb of the command line)
    model: str | Path | torch.nn.Module,
    args: Examples | None = None,
    *,
    target: str = "onnx",
    output: str | Path | None = None,
    dynamic: Dynamic | None = None,
    axes: Axes | None = None,
    fixed: Mapping[str, int] | None = None,
    cache: str | None = None,
    preset: str | None = None,
    config: str | Path | None = None,
    weights: str | Path | None = None,
    tokenizer: str | Path | None = None,
    dtype: str | None = None,
    quantize: str | Sequence[str] = (),
    keep: Sequence[str] = (),
    sparsity: Sequence[str] = (),
    passes: str | None = None,
    disabled_passes: Sequence[str] = (),
    level: int = 2,
    required_fusions: Sequence[str] = (),
    bisect_limit: int | None = None,
    verify_each: str = "ir",
    stages: int | str | None = None,
    stage_memory: int | None = None,
    unsafe_load_pickle: bool = False,
    **target_options: Any,
) -> Artifact:
    """Compile a module with example inputs ``args``, or what the command line takes as MODEL, into an artifact at ``output``.

    Without ``output`` the artifact lives in a temporary folder, as long as the object does. ``dynamic`` and ``axes`` are `capture`'s;
    the other options are the command line's, those of the target included. Raises `CgptcError`.
    """
    from cgptc.driver.compilation import compile_captured, compile_source
    from cgptc.driver.options import CompileOptions
    from cgptc.driver.shrinking import Shrinking, element_type
    from cgptc.frontend.source import Request
    from cgptc.ir.diagnostics import UsageError

    place = Path(output) if output is not None else None
    is_named = isinstance(model, (str, Path))
    request = Request(
        preset=preset,
        config=Path(config) if config is not None else None,
        weights=Path(weights) if weights is not None else None,
        unsafe_load_pickle=unsafe_load_pickle,
        dynamic={name: limits for name, limits in (dynamic or {}).items() if limits is not None} if is_named else {},
        fixed=fixed or {},
    )
    own_dtype, target_dtype = element_type(target, dtype)
    if target_dtype is not None:
        target_options["dtype"] = target_dtype
    options = CompileOptions(
        target=target,
        source=request,
        cache=cache,
        shrinking=Shrinking(own_dtype, (quantize,) if isinstance(quantize, str) else tuple(quantize), tuple(keep), tuple(sparsity)),
        passes=passes,
        disabled_passes=tuple(disabled_passes),
        level=level,
        required_fusions=tuple(required_fusions),
        bisect_limit=bisect_limit,
        verify_each=verify_each,
        stages=str(stages) if stages is not None else None,
        stage_memory=stage_memory,
        target_options=target_options,
    )
    if isinstance(model, (str, Path)):
        if args is not None or axes is not None:
            raise UsageError("usage", "example inputs and axes are for modules", fix="leave them out: the file says what its inputs are")
        return compile_source(str(model), options, place, tokenizer=Path(tokenizer) if tokenizer is not None else None)
    for name, given in (
        ("preset", preset),
        ("config", config),
        ("weights", weights),
        ("tokenizer", tokenizer),
        ("fixed", fixed),
        ("unsafe_load_pickle", unsafe_load_pickle or None),
    ):
        if given is not None:
            raise UsageError("usage", f"'{name}' is for model files, and a module was given", fix="leave it out")
    if args is None:
        raise UsageError("example-inputs", f"{type(model).__name__} was given without example inputs", fix="give args=(ids,)")
    from cgptc.frontend.live_module import capture_module

    return compile_captured(lambda: capture_module(model, args, dynamic=dynamic, axes=axes), type(model).__name__, options, place)


def verify(artifact: Artifact, module: torch.nn.Module, *inputs: Examples) -> Verification:
    """Hold an artifact against the module that it was compiled from, in float64, on each of the inputs; see `Verification`.

    Inputs are like `compile`'s examples, of any sizes that the artifact takes. Raises `CgptcError` with exit 8 where an output is further
    from float64 than the noise of its dtype explains, and `UsageError` without inputs.
    """
    from cgptc.driver.verification.modules import verify_module
    from cgptc.ir.diagnostics import UsageError

    if not inputs:
        raise UsageError("example-inputs", "there is nothing to compare on", fix="give inputs such as (ids,)")
    return verify_module(artifact, module, inputs)


def load(path: str | Path) -> Artifact:
    """Open an artifact folder after checking every digest. Raises `CgptcError`."""
    return Artifact.open(Path(path))
