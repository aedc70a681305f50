"""Running an ONNX model with onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgptc.backends.onnx.tensors import ORT_NAMES, to_array, to_value
from cgptc.ir.diagnostics import FileError, UsageError
from cgptc.ir.dtypes import DTYPES, DType
from cgptc.ir.op import Array

if TYPE_CHECKING:
    import onnxruntime

PROVIDERS = {"cpu": "CPUExecutionProvider", "any": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
PAST_PREFIX, PRESENT_PREFIX = "past_key_values.", "present."
MASK = "attention_mask"


@dataclass(frozen=True)
class Port:
    """An input or output: its name, element type and shape, where a size that may vary is a name."""

    name: str
    dtype: DType
    shape: tuple[int | str, ...]


class OnnxSession:
    """A loaded model. `run` takes and gives numpy arrays."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session
        self.inputs = tuple(_port(value) for value in session.get_inputs())
        self.outputs = tuple(_port(value) for value in session.get_outputs())

    @classmethod
    def open(cls, path: Path, provider: str = "cpu", threads: int = 0) -> OnnxSession:
        """Load a model file. ``threads`` 0 leaves the number to onnxruntime.

        `UsageError` where this onnxruntime lacks the provider: another is never taken in its place. `FileError` where the file is
        missing or is refused.
        """
        import onnxruntime

        wanted = PROVIDERS[provider]
        if wanted not in onnxruntime.get_available_providers():
            raise UsageError("no-provider", f"onnxruntime here has no {wanted}", fix="install cgptc[gpu], or take another '--ep'")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # its warnings concern choices that are ours
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=[wanted])
        except Exception as error:  # onnxruntime raises classes of its own that have no common base
            raise FileError("bad-model", f"onnxruntime refuses the model: {error}", file=path.name) from error
        return cls(session)

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(port.name for port in self.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(port.name for port in self.outputs)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name. An absent mask is all ones, an absent past is empty; `UsageError` names what else is missing or unknown."""
        feeds = self._complete(inputs)
        return dict(zip(self.output_names, map(to_array, self.session.run_with_ort_values(self.output_names, feeds)), strict=True))

    def _complete(self, inputs: Mapping[str, Array]) -> dict[str, onnxruntime.OrtValue]:
        unknown = [name for name in inputs if name not in self.input_names]
        if unknown:
            raise UsageError("unknown-input", f"the model has no input '{unknown[0]}'", fix=f"it has {', '.join(self.input_names)}")
        sizes = {
            str(dim): size
            for port in self.inputs
            if port.name in inputs
            for dim, size in zip(port.shape, inputs[port.name].shape, strict=False)
        }
        past = next((inputs[name].shape[2] for name in inputs if name.startswith(PAST_PREFIX)), 0)
        feeds: dict[str, onnxruntime.OrtValue] = {}
        for port in self.inputs:
            if port.name in inputs:
                array = _as_type(inputs[port.name], port)
            elif port.name.startswith(PAST_PREFIX):
                array = np.zeros(self._past_shape(port, sizes, 0), port.dtype.numpy)
            elif port.name == MASK and "input_ids" in inputs:
                batch, length = inputs["input_ids"].shape
                array = np.ones((batch, past + length), port.dtype.numpy)
            else:
                raise UsageError("missing-input", f"input '{port.name}' is not given and has no natural default")
            feeds[port.name] = to_value(array, port.dtype)
        return feeds

    def _past_shape(self, port: Port, sizes: Mapping[str, int], past: int) -> tuple[int, ...]:
        batch, heads, _, width = port.shape
        assert isinstance(heads, int)
        assert isinstance(width, int)
        return (batch if isinstance(batch, int) else sizes[batch], heads, past, width)


def _as_type(array: Array, port: Port) -> Array:
    """``array`` in the port's element type, where no value can change by it."""
    array = np.asarray(array)
    wanted = port.dtype.numpy
    if array.dtype == wanted:
        return array
    if array.dtype.kind in "iub" and wanted.kind in "iu":
        return array.astype(wanted)
    if array.dtype.kind in "iu" and wanted.kind == "b" and ((array == 0) | (array == 1)).all():
        return array.astype(wanted)
    raise UsageError("wrong-type", f"input '{port.name}' must be {port.dtype}, got {array.dtype}")


def _port(value: Any) -> Port:
    return Port(value.name, DTYPES[ORT_NAMES[value.type]], tuple(value.shape))
