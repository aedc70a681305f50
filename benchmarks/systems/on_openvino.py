"""OpenVINO's own runtime, on the file that optimum exports, held to f32: its default on CPUs with bf16 is silently that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from systems.peer import Peer

MODES = {"int8": {"mode": "int8_asym"}, "int4": {"mode": "int4_sym", "group_size": 32, "ratio": 1.0, "all_layers": True}}
"""What nncf's ``compress_weights`` is asked for: int4 with the blocks that the others have, the head included."""


class OpenVino(Peer):
    """The cache is the model's state, as OpenVINO's own generation keeps it, and a prefill computes the last token's logits alone."""

    def __init__(self, folder: Path, form: str, threads: int) -> None:
        import openvino

        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        self.whole = openvino.Core().read_model(folder / f"openvino-{form}.xml")
        self.compile = lambda model: openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
        self.request: Any = None
        self.length = 0

    @classmethod
    def prepare(cls, folder: Path, form: str) -> None:
        import openvino
        from openvino._offline_transformations import apply_make_stateful_transformation

        model = openvino.Core().read_model(folder / "optimum" / "model.onnx")
        for port in model.inputs:  # a state of one row can start empty
            shape = port.get_partial_shape()
            shape[0] = 1
            model.reshape({port: shape})
        pasts = [name for port in model.inputs for name in port.get_names() if name.startswith("past_key_values")]
        apply_make_stateful_transformation(model, {name: name.replace("past_key_values", "present") for name in pasts})
        if form != "f32":
            import nncf

            given = dict(MODES[form])
            model = nncf.compress_weights(model, **{**given, "mode": nncf.CompressWeightsMode(given["mode"])})
        openvino.save_model(model, folder / f"openvino-{form}.xml", compress_to_fp16=False)

    def prefill(self, ids: list[int]) -> int:
        if self.request is None:
            keep_last(self.whole)
            self.request = self.compile(self.whole)
        return int(self._start(ids)[-1].argmax())

    def step(self, token: int) -> int:
        return int(self._read([token])[-1].argmax())

    def logits(self, ids: list[int]) -> npt.NDArray[np.float32]:
        if self.request is None:
            self.request = self.compile(self.whole)
        return self._start(ids).copy()

    def _start(self, ids: list[int]) -> npt.NDArray[np.float32]:
        self.request.reset_state()
        self.length = 0
        return self._read(ids)

    def _read(self, ids: list[int]) -> npt.NDArray[np.float32]:
        positions = np.arange(self.length, self.length + len(ids))[None]
        self.length += len(ids)
        feeds = {"input_ids": np.array([ids]), "attention_mask": np.ones((1, self.length), np.int64), "position_ids": positions}
        names = {name for port in self.request.get_compiled_model().inputs for name in port.get_names()}
        self.request.infer({name: value for name, value in feeds.items() if name in names}, share_inputs=True)
        found: npt.NDArray[np.float32] = self.request.get_tensor("logits").data[0]
        return found


def keep_last(model: Any) -> None:
    """Cut what the head multiplies to the last token."""
    import openvino.opset13 as opset

    product = model.output("logits").node.input_value(0).node
    while product.get_type_name() != "MatMul":
        product = product.input_value(0).node
    last = opset.slice(product.input_value(0), [-1], [np.iinfo(np.int32).max], [1], [1])
    product.input(0).replace_source_output(last.output(0))
    model.validate_nodes_and_infer_types()
