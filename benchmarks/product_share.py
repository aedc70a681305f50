"""How much of a prefill and of a decoded token onnxruntime spends in matrix products, which no other graph could avoid.

The products of an artifact's model are run alone, with its own weights, in the same order and with as many threads: what they take is the
floor for any graph on onnxruntime's kernels. Both run in turns in one process; the share is products over whole, round by round (median and
90 % interval). Beside it, for a decoded token, is the share of the memory's bandwidth, read before and after in each round.

    python benchmarks/product_share.py ARTIFACT [ARTIFACT …] [--length 128] [--rounds 20] [--write docs/performance.md]
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from marked_text import write_between_marks
from onnx import TensorProto, helper
from paired import timed
from peer_table import Interval

from cgptc.backends.onnx.session import OnnxSession
from cgptc.driver.bench.measurement import core_count
from cgptc.driver.bench.read_stream import ReadStream
from cgptc.driver.bench.work import weight_bytes_per_token
from cgptc.runtime.compiled import Artifact

PRODUCTS = frozenset(["MatMul", "FusedMatMul", "Gemm", "MatMulNBits", "MatMulIntegerToFloat"])
QUANTISE = "DynamicQuantizeLinear"
BURST = 8
"""Runs timed in one go, after a rest in which the other session's threads stop spinning."""


def products_alone(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """A model of the products with weights, and what is rounded for them, each fed by an input of its own width; the widths by input name.

    Products that reach the logits take one row, as a prefill for generation does: their inputs are named ``last``.
    """
    weights = {each.name for each in model.graph.initializer}
    head = _before(model, "logits")
    nodes: list[onnx.NodeProto] = []
    inputs: dict[str, str] = {}
    for node in model.graph.node:
        if not (node.op_type == QUANTISE or (node.op_type in PRODUCTS and node.input[1] in weights)):
            continue
        kept = onnx.NodeProto()
        kept.CopyFrom(node)
        if kept.input[0] not in {output for other in nodes for output in other.output if other.op_type == QUANTISE}:
            name = f"{'last' if set(node.output) & head else 'rows'}:{kept.input[0]}"
            inputs[name] = kept.input[0]
            kept.input[0] = name
        nodes.append(kept)
    outputs = [output for node in nodes if node.op_type in PRODUCTS for output in node.output]
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inputs]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(nodes, "products", given, made, [each for each in model.graph.initializer if each.name in used])
    return helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version), inputs


def _before(model: onnx.ModelProto, result: str) -> set[str]:
    """The values that a result is made of, back to the products and the integers that these take."""
    makers = {output: node for node in model.graph.node for output in node.output}
    found, pending = {result}, [result]
    while pending:
        node = makers.get(pending.pop())
        if node is None or node.op_type == QUANTISE:
            continue
        new = (
            {name for name in node.input if name in makers and makers[name].op_type == QUANTISE}
            if node.op_type in PRODUCTS
            else set(node.input)
        )
        found |= new
        pending += new
    return found


class Products:
    """The products of an artifact, ready to run."""

    def __init__(self, artifact: Path, threads: int) -> None:
        model = onnx.load(artifact / "model.onnx", load_external_data=False)
        alone, self.sources = products_alone(model)
        shapes = {each.name: list(each.dims) for each in model.graph.initializer}
        self.widths: dict[str, int] = {}
        for node in alone.graph.node:
            if node.input[0] in self.sources:
                self.widths[node.input[0]] = _width(node, alone, shapes)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(artifact.resolve()))
        self.session = onnxruntime.InferenceSession(alone.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def bind(self, rows: int) -> onnxruntime.IOBinding:
        """The inputs for so many rows."""
        binding = self.session.io_binding()
        rng = np.random.default_rng(0)
        for name, width in self.widths.items():
            shape = (1, 1 if name.startswith("last:") else rows, width)
            binding.bind_cpu_input(name, rng.standard_normal(shape).astype(np.float32))
        for output in self.session.get_outputs():
            binding.bind_output(output.name, "cpu")
        return binding


def _width(node: onnx.NodeProto, model: onnx.ModelProto, shapes: dict[str, list[int]]) -> int:
    """How many columns a product's first operand has."""
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    if node.op_type == QUANTISE:
        user = next(each for each in model.graph.node if node.output[0] in each.input)
        return shapes[user.input[1]][0]
    if node.op_type == "MatMulNBits":
        return int(attributes["K"])
    return shapes[node.input[1]][1 if attributes.get("transB") else 0]


def measure(path: Path, length: int, rounds: int, threads: int) -> tuple[Interval, Interval, Interval, float, float]:
    """Shares of the products in a prefill and in a token, the share of the bandwidth, and the medians of both in seconds."""
    artifact = Artifact.open(path)
    decoder = OnnxSession.open(path / "model.onnx", threads=threads).decoder()
    products, stream = Products(path, threads), ReadStream(threads)
    many, one = products.bind(length), products.bind(1)
    ids, mask, token = np.ones((1, length), np.int64), np.ones((1, length), np.bool_), np.ones(1, np.int64)
    token_bytes = weight_bytes_per_token(artifact.graph)
    found: list[tuple[float, ...]] = []
    for _ in range(rounds):
        before = stream.measure()
        whole = timed(lambda: decoder.prefill(ids, mask), BURST // 2)
        step = timed(lambda: decoder.step(token), 2 * BURST)
        whole_products = timed(lambda: products.session.run_with_iobinding(many), BURST // 2)
        step_products = timed(lambda: products.session.run_with_iobinding(one), 2 * BURST)
        bandwidth = (before + stream.measure()) / 2
        found.append((whole_products / whole, step_products / step, token_bytes / step / bandwidth, whole, step))
    columns = list(zip(*found, strict=True))
    prefill, decode, share = (Interval.of(column) for column in columns[:3])
    return prefill, decode, share, statistics.median(columns[3]), statistics.median(columns[4])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifacts", nargs="+", type=Path)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=0, help="0: onnxruntime's choice")
    parser.add_argument("--note", default="", help="a remark on the machine for the table")
    parser.add_argument("--write", type=Path, help="a file with the marks of this table")
    given = parser.parse_args()
    lines = [f"{given.rounds} rounds, onnxruntime {onnxruntime.__version__}. {given.note}".strip(), ""]
    lines += [f"| artifact | prefill of {given.length} | products alone | a token | products alone | of the bandwidth |"]
    lines += ["| --- |" + " --- |" * 5]
    for path in given.artifacts:
        prefill, decode, share, whole, step = measure(path, given.length, given.rounds, given.threads or core_count())
        lines.append(f"| {path.name} | {whole * 1e3:.0f} ms | {prefill} | {step * 1e3:.1f} ms | {decode} | {share} |")
    text = "\n".join(lines)
    print(text)
    if given.write is not None:
        write_between_marks(given.write, "product share", text)


if __name__ == "__main__":
    main()
