"""How fast onnxruntime multiplies matrices on this machine: the limit of a prefill."""

from __future__ import annotations

import time

import numpy as np
import onnxruntime

SIDE = 1024
"""Rows and columns of the matrices: large enough for the kernel to reach its best, small enough to take milliseconds."""


SETTLE_SECONDS = 0.25
"""For the threads of a session that ran before, which spin for a while."""


class GemmPeak:
    """A product of two square f32 matrices, ready to run. ``threads`` 0 leaves their number to onnxruntime."""

    flops = 2 * SIDE**3

    def __init__(self, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # what is timed next shall have the cores
        self._session = onnxruntime.InferenceSession(_model(), options, providers=["CPUExecutionProvider"])
        binding = self._session.io_binding()
        binding.bind_cpu_input("a", np.full((SIDE, SIDE), 0.5, np.float32))
        binding.bind_output("c", "cpu")
        self._binding = binding

    def measure(self) -> float:
        """Operations per second of one product: the better of two, since its threads must wake up first."""
        time.sleep(SETTLE_SECONDS)
        return max(self._measure(), self._measure())

    def _measure(self) -> float:
        start = time.perf_counter()
        self._session.run_with_iobinding(self._binding)
        return self.flops / (time.perf_counter() - start)


def _model() -> bytes:
    """``c = a @ b`` where ``b`` is an initializer, which onnxruntime packs once as it does a model's weights."""
    from onnx import TensorProto, helper, numpy_helper

    kind = TensorProto.FLOAT
    weight = numpy_helper.from_array(np.full((SIDE, SIDE), 0.5, np.float32), "b")
    sides = [helper.make_tensor_value_info(name, kind, [SIDE, SIDE]) for name in ("a", "c")]
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "gemm", sides[:1], sides[1:], [weight])
    model: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()
    return model
