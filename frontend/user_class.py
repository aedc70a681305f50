"""Models of the user's own class: ``package.module:callable``, with weights through the safe reader.

This is the one form in which code of the user's runs, and only because they wrote it on the command line.
"""

from __future__ import annotations

import importlib
import re
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgptc.frontend.readers import Checkpoint, open_checkpoint
from cgptc.frontend.source import Bounds, CapturedModel, Request, find_companions
from cgptc.ir.diagnostics import CompileError, UsageError
from cgptc.ir.weight_expressions import converted
from cgptc.ir.weights import Stored, Weight

if TYPE_CHECKING:
    import torch

NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
"""``package.module:callable``; attributes of attributes are allowed after the colon."""

TRIED_SHAPE = (2, 8)
"""Shape of the int64 ids that are tried where the callable gives no example inputs."""

Dynamic = Mapping[str, Bounds | None]


def capture_user_class(name: str, request: Request, hash_ahead: bool = False) -> CapturedModel:
    """Call what ``name`` means and capture the module that it gives.

    The callable takes no argument and returns a module, ``(module, example inputs)`` or ``(module, example inputs, dynamic)``.
    Raises `UsageError` where it is not there or gives something else, `CompileError` where the user's code or the capture fails.
    """
    module, inputs, dynamic = _parts(name, _call(name))
    module.eval()
    checkpoint = open_checkpoint(request.weights) if request.weights is not None else None
    if checkpoint is not None and hash_ahead:
        checkpoint = checkpoint.hashed_ahead()
    try:
        return capture_class(name, module, inputs, dynamic, checkpoint, request)
    except BaseException:
        if checkpoint is not None:
            checkpoint.close()
        raise


def _call(name: str) -> Any:
    module_name, attribute = name.split(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and module_name.startswith(error.name):
            raise UsageError(
                "no-such-module", f"there is no module '{error.name}' to import", fix="run cgptc where it is importable"
            ) from error
        raise _failed(f"importing '{module_name}'", error) from error
    except (Exception, SystemExit) as error:
        raise _failed(f"importing '{module_name}'", error) from error
    finally:
        sys.path.remove(str(Path.cwd()))
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UsageError("no-such-callable", f"'{module_name}' has no '{attribute}'", fix="give package.module:callable")
        found = getattr(found, part)
    if not callable(found):
        raise UsageError("no-such-callable", f"'{name}' is a {type(found).__name__}, not a callable")
    try:
        return found()
    except (Exception, SystemExit) as error:
        raise _failed(f"'{name}'", error) from error


def _failed(what: str, error: Exception | SystemExit) -> CompileError:
    last = traceback.extract_tb(error.__traceback__)[-1]
    if isinstance(error, SyntaxError) and error.filename is not None:  # raised by Python itself, on the user's line
        last = traceback.FrameSummary(error.filename, error.lineno, "<module>", lookup_line=False)
    return CompileError(
        "user-code-failed",
        f"{what} raised {type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}",
        details=[f"  --> {Path(last.filename).name}:{last.lineno} in {last.name}"],
        fix="it must run without arguments",
    )


def _parts(name: str, given: Any) -> tuple[torch.nn.Module, tuple[Any, ...] | None, Dynamic | None]:
    import torch

    parts = given if isinstance(given, tuple) else (given,)
    if isinstance(parts[0], torch.nn.Module) and len(parts) <= 3:
        inputs = parts[1] if len(parts) > 1 else None
        if inputs is not None and not isinstance(inputs, tuple):
            inputs = tuple(inputs) if isinstance(inputs, list) else (inputs,)
        dynamic = parts[2] if len(parts) > 2 else None
        if dynamic is not None and not _is_dynamic(dynamic):
            what = f"'{name}' returned {str(dynamic)[:80]} for the sizes that stay symbolic"
            raise UsageError("not-a-module", what, fix="return a dict from names to (lowest, highest) or None, such as {'batch': None}")
        return parts[0], inputs, dynamic
    kinds = ", ".join(type(part).__name__ for part in parts)
    raise UsageError(
        "not-a-module", f"'{name}' returned {kinds}", fix="return a module, (module, example inputs) or (module, example inputs, dynamic)"
    )


def _is_dynamic(given: Any) -> bool:
    return isinstance(given, Mapping) and all(
        isinstance(name, str) and (bounds is None or (isinstance(bounds, tuple) and [type(each) for each in bounds] == [int, int]))
        for name, bounds in given.items()
    )


def capture_class(
    name: str,
    module: torch.nn.Module,
    inputs: tuple[Any, ...] | None,
    dynamic: Dynamic | None,
    checkpoint: Checkpoint | None,
    request: Request,
) -> CapturedModel:
    """The module with the checkpoint's weights, else with its own; without ``inputs`` int64 ids of `TRIED_SHAPE` are tried."""
    import torch

    from cgptc.frontend.capture import capture_with_result
    from cgptc.frontend.live_module import default_dynamic, layer_count, text_model_of

    args = inputs if inputs is not None else (torch.zeros(TRIED_SHAPE, dtype=torch.int64),)
    weights = _matched(module, checkpoint, str(request.weights)) if checkpoint is not None else None
    sizes = {**(dynamic if dynamic is not None else default_dynamic(args)), **request.dynamic}
    for fixed in request.fixed:
        sizes.pop(fixed, None)
    try:
        captured = capture_with_result(module, args, dynamic=sizes, weights=weights, store=checkpoint.store if checkpoint else None)
    except CompileError as error:
        if inputs is None and error.code == "capture-failed":
            error.fix = f"return (module, example inputs): int64 ids {list(TRIED_SHAPE)} were tried"
        raise
    graph = captured.graph
    text = text_model_of(graph, module, args)
    folder = request.weights.parent if request.weights is not None else None
    return CapturedModel(
        graph,
        type(module).__name__,
        f"{name}, weights from {checkpoint.format}" if checkpoint else name,
        sum(parameter.numel() for parameter in module.parameters()),
        layer_count(module),
        text,
        digest=checkpoint.digest if checkpoint else lambda: "",
        companions=find_companions(folder) if folder is not None and text is not None else {},
        warnings=checkpoint.notes
        if checkpoint
        else ("warning[random-weights]: no --weights given: those that the class starts with are used",),
        reference=lambda: _loaded(module, checkpoint, weights),
        close=checkpoint.close if checkpoint else lambda: None,
        result=captured.result,
    )


_WRAPPERS = ("module.", "_orig_mod.")
"""What data parallelism and torch.compile put before every name."""


def _unwrapped(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """The tensors by the names that they had before the model was wrapped."""
    found = dict(tensors)
    while prefix := next((each for each in _WRAPPERS if found and all(name.startswith(each) for name in found)), None):
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return found


def _matched(module: torch.nn.Module, checkpoint: Checkpoint, file: str) -> dict[str, Weight]:
    """The checkpoint's tensors under the module's names, in its element types as `load_state_dict` has it; every parameter and persistent
    buffer must be there, and nothing else."""
    from cgptc.frontend.torch_dtypes import FROM_TORCH

    wanted = module.state_dict()
    tensors = dict(checkpoint.tensors) if wanted.keys() & checkpoint.tensors.keys() else _unwrapped(checkpoint.tensors)
    missing, further = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or further:
        details = [f"  missing in the file: {', '.join(missing[:8])}"] if missing else []
        details += [f"  not in the module: {', '.join(further[:8])}"] if further else []
        raise CompileError(
            "weights-mismatch",
            f"{len(missing)} tensors of the module are not in the file, {len(further)} of the file not in the module",
            file=file,
            details=details,
            fix="give the state dict of exactly this module",
        )
    weights: dict[str, Weight] = {}
    for key, value in wanted.items():
        stored, dtype = tensors[key], FROM_TORCH.get(value.dtype)
        if stored.shape != tuple(value.shape):
            what = f"'{key}' is {list(stored.shape)}, the module has {list(value.shape)}"
            raise CompileError("weights-mismatch", what, file=file, fix="give the state dict of exactly this module")
        if dtype is None or (stored.dtype != dtype and not (stored.dtype.is_float and dtype.is_float)):
            what = f"'{key}' is {stored.dtype}, the module has {str(value.dtype).removeprefix('torch.')}"
            raise CompileError("weights-mismatch", what, file=file, fix="give the state dict of exactly this module")
        weights[key] = converted(stored, dtype)
    return weights


def _loaded(module: torch.nn.Module, checkpoint: Checkpoint | None, weights: Mapping[str, Weight] | None) -> torch.nn.Module:
    from cgptc.frontend.torch_dtypes import to_torch

    if checkpoint is not None and weights is not None:
        state = {key: to_torch(weight.read(checkpoint.store)) for key, weight in weights.items()}
        module.load_state_dict(state, assign=True)
    return module
