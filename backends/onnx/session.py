"""Running an ONNX model with onnxruntime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgptc.backends.onnx.element_codes import ORT_NAMES
from cgptc.backends.onnx.interface_names import CACHED_FORMS, GROUPED_QUERY, IDS, LOGITS, LOGITS_TO_KEEP, MASK, PAST_PREFIX
from cgptc.backends.onnx.single_steps import run_in_single_steps
from cgptc.backends.onnx.tensors import to_array, to_value
from cgptc.ir.diagnostics import FileError, UsageError
from cgptc.ir.dtypes import DType, i64
from cgptc.ir.op import Array

if TYPE_CHECKING:
    import onnxruntime

    from cgptc.backends.onnx.decoder import Decoder

EP_NAMES = {"cpu": "CPUExecutionProvider", "any": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

ON_HOST = frozenset(
    [
        *("Add", "And", "Cast", "Concat", "CumSum", "Div", "Equal", "Expand", "Gather", "Greater", "Identity", "Less", "Max", "Min", "Mod"),
        *("Mul", "Neg", "Not", "Or", "Range", "ReduceMax", "Reshape", "Shape", "Size", "Slice", "Squeeze", "Sub", "Unsqueeze", "Where"),
    ]
)
"""Operators that onnxruntime itself keeps on the CPU where they compute shapes and positions, a handful of integers."""


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
        self._forms = set(session.get_modelmeta().custom_metadata_map.get(CACHED_FORMS, "").split(",")) - {""}

    @classmethod
    def open(cls, path: Path, provider: str = "cpu", threads: int = 0) -> OnnxSession:
        """Load a model file. ``threads`` 0 leaves the number to onnxruntime.

        `UsageError` where there is no such provider, or this onnxruntime lacks it: another is never taken in its place. `FileError` where
        the file is missing or is refused.
        """
        import onnxruntime

        if provider not in EP_NAMES:
            raise UsageError("bad-value", f"unknown --ep '{provider}'", fix=f"choose one of {', '.join(EP_NAMES)}")
        wanted = EP_NAMES[provider]
        if wanted not in onnxruntime.get_available_providers():
            raise UsageError("no-provider", f"onnxruntime here has no {wanted}", fix="install cgptc[gpu], or take another '--ep'")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # its warnings concern choices that are ours
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        try:
            opened = cls(onnxruntime.InferenceSession(str(path), options, providers=[wanted]))
        except Exception as error:  # onnxruntime raises classes of its own that have no common base
            raise FileError("bad-model", f"onnxruntime refuses the model: {_reason(error)}", file=path.name) from error
        if provider == "cuda":
            require_on_device(opened.placed_operators(), wanted)
        return opened

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(port.name for port in self.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(port.name for port in self.outputs)

    @cached_property
    def _ports(self) -> dict[str, Port]:
        return {port.name: port for port in (*self.inputs, *self.outputs)}

    def port(self, name: str) -> Port:
        """The input or output of that name; KeyError where there is none."""
        return self._ports[name]

    @cached_property
    def pasts(self) -> tuple[Port, ...]:
        """The inputs that hold cached keys and values."""
        return tuple(port for port in self.inputs if port.name.startswith(PAST_PREFIX))

    @cached_property
    def can_keep_logits(self) -> bool:
        """Whether the model computes logits of the last tokens alone where it is asked to."""
        return any(value.name == LOGITS_TO_KEEP for value in self.session.get_overridable_initializers())

    @property
    def shares_cache(self) -> bool:
        """Whether past and present may lie in one buffer."""
        return self._forms == {GROUPED_QUERY}

    def value(self, name: str, array: Array) -> onnxruntime.OrtValue:
        """An array as the value of an input: in its element type, sharing memory where it has that already."""
        port = self.port(name)
        return to_value(_as_type(array, port), port.dtype)

    def empty_logits(self, batch: int, seq: int) -> Array:
        """An array for the logits of a call that keeps the last token's, where the model can drop the others."""
        port = self.port(LOGITS)
        rows, vocabulary = port.shape[1], port.shape[-1]
        assert isinstance(vocabulary, int)
        kept = rows if isinstance(rows, int) else 1 if self.can_keep_logits else seq
        return np.empty((batch, kept, vocabulary), port.dtype.numpy)

    @cached_property
    def last_token_only(self) -> dict[str, onnxruntime.OrtValue]:
        """What asks a model for the logits of the last token alone; empty where it cannot drop the others."""
        return {LOGITS_TO_KEEP: to_value(np.ones(1, np.int64), i64)} if self.can_keep_logits else {}

    def placed_operators(self) -> dict[str, Counter[str]]:
        """Operators by the execution provider that onnxruntime gave them to; empty where its version does not tell (before 1.24)."""
        tell = getattr(self.session, "get_provider_graph_assignment_info", None)
        found: dict[str, Counter[str]] = {}
        for part in tell() if tell is not None else ():
            found.setdefault(part.ep_name, Counter()).update(node.op_type for node in part.get_nodes())
        return found

    def placement(self) -> dict[str, int]:
        """How many nodes each execution provider has; empty where onnxruntime does not tell."""
        return {name: operators.total() for name, operators in self.placed_operators().items()}

    def notes(self) -> tuple[str, ...]:
        """The placement as a line for a reader."""
        parts = [f"{count} nodes on {name}" for name, count in self.placement().items()]
        return (f"placement: {', '.join(parts)}",) if parts else ()

    def decoder(self) -> Decoder:
        """A decoder over this model, which must be a cached causal one."""
        from cgptc.backends.onnx.decoder import decoder_of

        return decoder_of(self)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name. An absent mask is all ones, an absent past is empty; `UsageError` names what else is missing or unknown.

        A call that the model's form of attention refuses is made token by token; the results are the same.
        """
        given = complete(self.inputs, inputs)
        if self.refuses(given):
            return run_in_single_steps(self, given)
        return self.run_once(given)

    def run_once(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One call with every input given."""
        feeds = {port.name: self.value(port.name, inputs[port.name]) for port in self.inputs}
        return dict(zip(self.output_names, map(to_array, self.call(self.output_names, feeds)), strict=True))

    def call(self, names: Sequence[str], feeds: Mapping[str, onnxruntime.OrtValue]) -> list[onnxruntime.OrtValue]:
        """Outputs by name from values that fit. `UsageError` where onnxruntime cannot compute them, such as for an id that no table has."""
        try:
            values: list[onnxruntime.OrtValue] = self.session.run_with_ort_values(names, feeds)
        except Exception as error:
            raise _uncomputable(error) from error
        return values

    def call_bound(self, binding: onnxruntime.IOBinding) -> None:
        """The same with inputs and outputs where they lie already."""
        try:
            self.session.run_with_iobinding(binding)
        except Exception as error:
            raise _uncomputable(error) from error

    def refuses(self, inputs: Mapping[str, Array]) -> bool:
        """Whether the model's form of attention takes no such call: several new tokens after a past, in a batch."""
        if GROUPED_QUERY not in self._forms or IDS not in inputs or not self.pasts:
            return False
        batch, seq = inputs[IDS].shape[:2]
        return bool(batch > 1 and seq > 1 and inputs[self.pasts[0].name].shape[2] > 0)


def complete(ports: Sequence[Port], inputs: Mapping[str, Array]) -> dict[str, Array]:
    """An array for every input. An absent mask is all ones, an absent past is empty; `UsageError` names what else is missing or unknown."""
    names = [port.name for port in ports]
    unknown = [name for name in inputs if name not in names]
    if unknown:
        raise UsageError("unknown-input", f"the model has no input '{unknown[0]}'", fix=f"it has {', '.join(names)}")
    found: dict[str, Array] = {}
    for port in ports:
        if port.name in inputs:
            found[port.name] = np.asarray(inputs[port.name])
            if found[port.name].ndim != len(port.shape):
                shape = ", ".join(map(str, port.shape))
                raise UsageError("wrong-shape", f"input '{port.name}' must be [{shape}], got {list(found[port.name].shape)}")
        elif port.name.startswith(PAST_PREFIX) and IDS in inputs:
            found[port.name] = empty_past(port, len(inputs[IDS]), 0)
        elif port.name == MASK and IDS in inputs:
            past = next((inputs[name].shape[2] for name in inputs if name.startswith(PAST_PREFIX)), 0)
            batch, seq = inputs[IDS].shape[:2]
            found[port.name] = np.ones((batch, past + seq), port.dtype.numpy)
        else:
            raise UsageError("missing-input", f"input '{port.name}' is not given and has no natural default")
    return found


def require_on_device(placed: Mapping[str, Counter[str]], wanted: str) -> None:
    """`UsageError` where a node that computes, rather than only moving shapes and positions about, is on another provider than asked."""
    if not placed:
        raise UsageError("no-placement", "this onnxruntime does not say where nodes run", fix="install onnxruntime-gpu 1.24 or newer")
    elsewhere = sum((operators for name, operators in placed.items() if name != wanted), Counter[str]())
    strayed = [f"{count} {name}" for name, count in sorted(elsewhere.items()) if name not in ON_HOST]
    if strayed:
        raise UsageError(
            "cpu-nodes", f"onnxruntime would run nodes on the CPU: {', '.join(strayed)}", fix="compile with --ep cuda, or run with --ep cpu"
        )


def empty_past(port: Port, batch: int, length: int) -> Array:
    """Zeros for a past input [batch, heads, length, width]."""
    _, heads, _, width = port.shape
    assert isinstance(heads, int)
    assert isinstance(width, int)
    return np.zeros((batch, heads, length, width), port.dtype.numpy)


def _as_type(array: Array, port: Port) -> Array:
    """``array`` in the port's element type, where no value can change by it."""
    wanted = port.dtype.numpy
    if array.dtype == wanted:
        return array
    if array.dtype.kind in "iub" and wanted.kind in "iu":
        return array.astype(wanted)
    if array.dtype.kind in "iu" and wanted.kind == "b" and ((array == 0) | (array == 1)).all():
        return array.astype(wanted)
    raise UsageError("wrong-type", f"input '{port.name}' must be {port.dtype}, got {array.dtype}")


def _uncomputable(error: Exception) -> UsageError:
    return UsageError("run", f"onnxruntime cannot compute this: {_reason(error)}", fix="give other inputs, fewer or shorter ones")


def _reason(error: Exception) -> str:
    """What an error of onnxruntime's says, in one line that is fit for a terminal."""
    said = " ".join(str(error).split())
    return "".join(letter for letter in said.rpartition("Status Message: ")[2] if letter.isprintable())[:300]


def _port(value: Any) -> Port:
    return Port(value.name, ORT_NAMES[value.type], tuple(value.shape))
