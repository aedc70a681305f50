"""Pickled modules, unpickled: the one place of cgptc where a model file runs code, and only under ``--unsafe-load-pickle``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cgptc.frontend.readers import Kind
from cgptc.frontend.readers.input_file import InputFile
from cgptc.frontend.source import CapturedModel, Request, find_companions
from cgptc.frontend.user_class import capture_class
from cgptc.ir.diagnostics import CompileError

WARNING = "warning[unsafe-pickle]: the file was unpickled, which ran whatever code it names (--unsafe-load-pickle)"


def capture_pickled(path: Path, request: Request) -> CapturedModel:
    """Unpickle a whole module and capture it, on int64 ids as a class of one's own is.

    Raises `CompileError` where unpickling fails or gives no module, and what the capture raises.
    """
    import torch

    with InputFile(path) as file:
        digest = file.sha256()
    fix = "import its class where cgptc runs, or re-save with torch.save(model.state_dict(), 'model.pt')"
    try:
        module = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # whatever the file's code raises
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        what = f"unpickling it raised {type(error).__name__}: {reason[:200]}"
        raise CompileError("unpickling-failed", what, file=str(path), fix=fix) from error
    if not isinstance(module, torch.nn.Module):
        what = f"the pickle holds a {type(module).__name__}, not a module"
        raise CompileError("not-a-module", what, file=str(path), fix="re-save with torch.save(model.state_dict(), 'model.pt')")
    module.eval()
    captured = capture_class(str(path), module, None, None, None, request)
    companions = find_companions(path.parent) if captured.text is not None else {}
    return replace(captured, format=Kind.PICKLED_MODULE.value, digest=lambda: digest, companions=companions, warnings=(WARNING,))
