"""Options of the ONNX target."""

from __future__ import annotations

from dataclasses import dataclass

from cgptc.ir.diagnostics import UsageError

MODES = ("ort", "standard")
PROVIDERS = ("cpu", "cuda", "any")
OPSETS = range(21, 27)
DEFAULT_OPSET = 23
IR_VERSIONS = {21: 10, 22: 10, 23: 11, 24: 12, 25: 13, 26: 13}
"""The ONNX file format that came with each opset."""


@dataclass(frozen=True)
class OnnxOptions:
    """``ops``: "ort" uses onnxruntime's contrib operators where they are faster, "standard" the ONNX standard's alone.

    ``ep`` is the execution provider whose kernels the model must find: "cpu", "cuda", or "any" to check none, as for another runtime.
    """

    ops: str = "ort"
    opset: int = DEFAULT_OPSET
    ep: str = "cpu"

    def __post_init__(self) -> None:
        if self.ops not in MODES:
            raise UsageError("bad-option", f"'--ops {self.ops}'", fix=f"choose one of {', '.join(MODES)}")
        if self.ep not in PROVIDERS:
            raise UsageError("bad-option", f"'--ep {self.ep}'", fix=f"choose one of {', '.join(PROVIDERS)}")
        if self.opset not in OPSETS:
            raise UsageError("bad-option", f"'--opset {self.opset}'", fix=f"choose {OPSETS[0]} to {OPSETS[-1]}")
