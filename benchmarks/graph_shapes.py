"""Which ONNX shape of the same computation is fastest on this machine's onnxruntime.

Each group holds forms of one piece of a decoder layer at GPT-2-small widths. The forms of a group run interleaved in one process, round by
round in a random order, and each is compared with the group's first form by the median of the ratios taken within a round, with the
5th and 95th percentile: paired ratios stand on a machine whose speed drifts.

    python benchmarks/graph_shapes.py [--group attention-decode] [--rounds 30] [--threads 2]
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from paired import timed

WIDTH, HEADS, INNER, VOCABULARY = 768, 12, 3072, 50257
HEAD = WIDTH // HEADS
CONTRIB = "com.microsoft"
F32, I32 = TensorProto.FLOAT, TensorProto.INT32

BURST = 5
"""Runs in a row, of which the median counts."""

Array = np.ndarray


@dataclass(frozen=True)
class Form:
    """A named model with its inputs."""

    name: str
    model: onnx.ModelProto
    inputs: dict[str, Array]
    shared: tuple[tuple[str, str], ...] = ()
    """Inputs and outputs that lie in one buffer."""


class Parts:
    """Collects nodes and weights of a model."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(0)

    def weight(self, name: str, *shape: int) -> str:
        self.weights.append(numpy_helper.from_array(self._random.standard_normal(shape, np.float32) / 30, name))
        return name

    def constant(self, name: str, array: Array) -> str:
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def node(self, op: str, inputs: Sequence[str], *outputs: str, domain: str = "", **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, inputs, outputs, domain=domain, **attributes))
        return outputs[0]

    def model(self, inputs: dict[str, Array], outputs: Sequence[str]) -> onnx.ModelProto:
        given = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), _declared(array))
            for name, array in inputs.items()
        ]
        results = [helper.make_tensor_value_info(name, F32, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "form", given, results, self.weights)
        opsets = [helper.make_opsetid("", 23), helper.make_opsetid(CONTRIB, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=11)


def _declared(array: Array) -> list[int | None]:
    """Lengths vary, widths and head counts do not."""
    return [size if size in (WIDTH, 3 * WIDTH, HEADS, HEAD, INNER) else None for size in array.shape]


def linear_forms(rows: int) -> Iterator[Form]:
    """A projection of the MLP: [1, rows, 768] @ [768, 3072] + bias."""
    x = np.random.default_rng(1).standard_normal((1, rows, WIDTH), np.float32)
    parts = Parts()
    parts.node("MatMul", ["x", parts.weight("w", WIDTH, INNER)], "p")
    parts.node("Add", ["p", parts.weight("b", INNER)], "y")
    yield Form("MatMul + Add", parts.model({"x": x}, ["y"]), {"x": x})

    for transposed in (0, 1):
        parts = Parts()
        flat = parts.node("Reshape", ["x", parts.constant("rows", np.array([-1, WIDTH]))], "flat")
        shape = (INNER, WIDTH) if transposed else (WIDTH, INNER)
        parts.node("Gemm", [flat, parts.weight("w", *shape), parts.weight("b", INNER)], "p", transB=transposed)
        parts.node("Reshape", ["p", parts.constant("back", np.array([1, -1, INNER]))], "y")
        yield Form(f"Gemm{' transB' if transposed else ''}", parts.model({"x": x}, ["y"]), {"x": x})

    parts = Parts()
    parts.node("FusedMatMul", ["x", parts.weight("w", INNER, WIDTH)], "p", domain=CONTRIB, transB=1)
    parts.node("Add", ["p", parts.weight("b", INNER)], "y")
    yield Form("FusedMatMul transB + Add", parts.model({"x": x}, ["y"]), {"x": x})


def head_forms(rows: int) -> Iterator[Form]:
    """The LM head whose weight is the embedding table [50257, 768], stored once."""
    x = np.random.default_rng(1).standard_normal((1, rows, WIDTH), np.float32)
    ids = np.array([[5]])
    inputs = {"x": x, "ids": ids}

    def start() -> Parts:
        parts = Parts()
        parts.node("Gather", [parts.weight("w", VOCABULARY, WIDTH), "ids"], "embedded")
        return parts

    parts = start()
    parts.node("Transpose", ["w"], "t", perm=[1, 0])
    parts.node("MatMul", ["x", "t"], "y")
    yield Form("Transpose at load + MatMul", parts.model(inputs, ["y", "embedded"]), inputs)

    parts = start()
    parts.node("FusedMatMul", ["x", "w"], "y", domain=CONTRIB, transB=1)
    yield Form("FusedMatMul transB", parts.model(inputs, ["y", "embedded"]), inputs)

    parts = start()
    flat = parts.node("Reshape", ["x", parts.constant("rows", np.array([-1, WIDTH]))], "flat")
    parts.node("Gemm", [flat, "w"], "p", transB=1)
    parts.node("Reshape", ["p", parts.constant("back", np.array([1, -1, VOCABULARY]))], "y")
    yield Form("Gemm transB", parts.model(inputs, ["y", "embedded"]), inputs)

    parts = start()
    parts.node("MatMul", ["x", parts.weight("copy", WIDTH, VOCABULARY)], "y")
    yield Form("MatMul of a second copy", parts.model(inputs, ["y", "embedded"]), inputs)


def attention_forms(seq: int, past: int) -> Iterator[Form]:
    """One layer's attention from its projections [1, seq, 768], with a past, causal, with padding or without."""
    rng = np.random.default_rng(1)
    total = past + seq
    q, k, v = (rng.standard_normal((1, seq, WIDTH), np.float32) for _ in range(3))
    past_k, past_v = (rng.standard_normal((1, HEADS, past, HEAD), np.float32) for _ in range(2))
    tokens = {"q": q, "k": k, "v": v}
    pasts = {"past_k": past_k, "past_v": past_v}
    allowed = np.tri(seq, total, past, dtype=bool)[None, None]
    scale = HEAD**-0.5
    outputs = ["y", "present_k", "present_v"]

    def heads(parts: Parts, names: Sequence[str]) -> list[str]:
        split = []
        for name in names:
            parts.node("Reshape", [name, "split"], f"{name}4")
            split.append(parts.node("Transpose", [f"{name}4"], f"{name}h", perm=[0, 2, 1, 3]))
        return split

    def merged(parts: Parts) -> None:
        parts.node("Transpose", ["o"], "ot", perm=[0, 2, 1, 3])
        parts.node("Reshape", ["ot", parts.constant("merge", np.array([0, 0, WIDTH]))], "y")

    def four_axes(name: str, masks: dict[str, Array]) -> Form:
        parts = Parts()
        parts.constant("split", np.array([0, 0, HEADS, HEAD]))
        mask = "mask" if masks else ""
        parts.node("Attention", [*heads(parts, "qkv"), mask, "past_k", "past_v"], "o", "present_k", "present_v", is_causal=1, scale=scale)
        merged(parts)
        given = {**tokens, **pasts, **masks}
        return Form(name, parts.model(given, outputs), given)

    yield four_axes("Attention, 4 axes", {})
    yield four_axes("Attention, 4 axes, bool mask", {"mask": allowed})
    bias = np.where(allowed, 0, -np.inf).astype(np.float32)
    yield four_axes("Attention, 4 axes, float mask", {"mask": bias})

    parts = Parts()
    parts.node(
        "Attention",
        ["q", "k", "v", "mask", "past_k", "past_v"],
        *outputs,
        is_causal=1,
        scale=scale,
        q_num_heads=HEADS,
        kv_num_heads=HEADS,
    )
    given = {**tokens, **pasts, "mask": allowed}
    yield Form("Attention, 3 axes, bool mask", parts.model(given, outputs), given)

    for masked in (False, True):
        parts = Parts()
        parts.node(
            "MultiHeadAttention",
            ["q", "k", "v", "", "", "bias" if masked else "", "past_k", "past_v"],
            *outputs,
            domain=CONTRIB,
            num_heads=HEADS,
            unidirectional=1,
            scale=scale,
        )
        given = {**tokens, **pasts, **({"bias": bias} if masked else {})}
        yield Form(f"MultiHeadAttention{', bias' if masked else ''}", parts.model(given, outputs), given)

    lengths = {"lengths": np.array([total - 1], np.int32), "total": np.array(total, np.int32)}
    for masked in (False, True):
        for shared in (False, True):
            buffers = (
                {name: np.concatenate([p, np.zeros((1, HEADS, seq, HEAD), np.float32)], axis=2) for name, p in pasts.items()}
                if shared
                else pasts
            )
            parts = Parts()
            parts.node(
                "GroupQueryAttention",
                ["q", "k", "v", "past_k", "past_v", "lengths", "total", "", "", "", *(["bias"] if masked else [])],
                *outputs,
                domain=CONTRIB,
                num_heads=HEADS,
                kv_num_heads=HEADS,
                scale=scale,
            )
            given = {**tokens, **buffers, **lengths, **({"bias": bias} if masked else {})}
            name = f"GroupQueryAttention{', bias' if masked else ''}{', shared buffers' if shared else ''}"
            pairs = (("past_k", "present_k"), ("past_v", "present_v")) if shared else ()
            yield Form(name, parts.model(given, outputs), given, pairs)

    parts = Parts()
    parts.constant("split", np.array([0, 0, HEADS, HEAD]))
    qh, kh, vh = heads(parts, "qkv")
    parts.node("Concat", ["past_k", kh], "present_k", axis=2)
    parts.node("Concat", ["past_v", vh], "present_v", axis=2)
    parts.node("Transpose", ["present_k"], "kt", perm=[0, 1, 3, 2])
    parts.node("MatMul", [qh, "kt"], "raw")
    parts.node("Mul", ["raw", parts.constant("scale", np.array(scale, np.float32))], "scaled")
    parts.node("Add", ["scaled", "bias"], "scores")
    parts.node("Softmax", ["scores"], "p", axis=-1)
    parts.node("MatMul", ["p", "present_v"], "o")
    merged(parts)
    given = {**tokens, **pasts, "bias": bias}
    yield Form("written out", parts.model(given, outputs), given)


def activation_forms(rows: int) -> Iterator[Form]:
    """Bias and GELU over [1, rows, 3072]."""
    x = np.random.default_rng(1).standard_normal((1, rows, INNER), np.float32)
    for approximate in ("none", "tanh"):
        parts = Parts()
        parts.node("Add", ["x", parts.weight("b", INNER)], "s")
        parts.node("Gelu", ["s"], "y", approximate=approximate)
        yield Form(f"Add + Gelu {approximate}", parts.model({"x": x}, ["y"]), {"x": x})
    for op in ("BiasGelu", "FastGelu"):
        parts = Parts()
        parts.node(op, ["x", parts.weight("b", INNER)], "y", domain=CONTRIB)
        yield Form(f"{op} ({'exact' if op == 'BiasGelu' else 'tanh'})", parts.model({"x": x}, ["y"]), {"x": x})


def norm_forms(rows: int) -> Iterator[Form]:
    """A residual sum and its norm over [1, rows, 768]."""
    inputs = {name: np.random.default_rng(1).standard_normal((1, rows, WIDTH), np.float32) for name in ("x", "r")}
    parts = Parts()
    parts.node("Add", ["x", "r"], "s")
    parts.node("LayerNormalization", ["s", parts.weight("w", WIDTH), parts.weight("b", WIDTH)], "y", axis=-1)
    yield Form("Add + LayerNormalization", parts.model(inputs, ["y", "s"]), inputs)
    parts = Parts()
    weights = [parts.weight("w", WIDTH), parts.weight("b", WIDTH)]
    parts.node("SkipLayerNormalization", ["x", "r", *weights], "y", "", "", "s", domain=CONTRIB)
    yield Form("SkipLayerNormalization", parts.model(inputs, ["y", "s"]), inputs)


def projection_forms(rows: int) -> Iterator[Form]:
    """Query, key and value of [1, rows, 768], apart and as one product that is split."""
    x = np.random.default_rng(1).standard_normal((1, rows, WIDTH), np.float32)
    names = ["q", "k", "v"]
    parts = Parts()
    for name in names:
        parts.node("MatMul", ["x", parts.weight(f"w{name}", WIDTH, WIDTH)], name)
    yield Form("three MatMul", parts.model({"x": x}, names), {"x": x})

    parts = Parts()
    parts.node("MatMul", ["x", parts.weight("w", WIDTH, 3 * WIDTH)], "whole")
    parts.node("Split", ["whole"], *names, axis=-1, num_outputs=3)
    yield Form("MatMul + Split", parts.model({"x": x}, names), {"x": x})


def packed_forms(seq: int, past: int) -> Iterator[Form]:
    """Attention of one projection's result [1, seq, 2304], split and as it is."""
    rng = np.random.default_rng(1)
    inputs: dict[str, Array] = {"qkv": rng.standard_normal((1, seq, 3 * WIDTH), np.float32)}
    inputs |= {name: rng.standard_normal((1, HEADS, past, HEAD), np.float32) for name in ("past_k", "past_v")}
    inputs |= {"lengths": np.array([past + seq - 1], np.int32), "total": np.array(past + seq, np.int32)}
    for packed in (False, True):
        parts = Parts()
        given = ["qkv", "", ""] if packed else ["q", "k", "v"]
        if not packed:
            parts.node("Split", ["qkv"], *given, axis=-1, num_outputs=3)
        operands = [*given, "past_k", "past_v", "lengths", "total"]
        outputs = ["y", "present_k", "present_v"]
        attributes = {"num_heads": HEADS, "kv_num_heads": HEADS, "scale": HEAD**-0.5}
        parts.node("GroupQueryAttention", operands, *outputs, domain=CONTRIB, **attributes)
        yield Form("packed" if packed else "Split + GroupQueryAttention", parts.model(inputs, outputs), inputs)


def loss_forms(rows: int) -> Iterator[Form]:
    """The LM head and the cross entropy of its logits: [rows, 768] @ [768, 50257], targets [rows, 1]."""
    rng = np.random.default_rng(1)
    inputs: dict[str, Array] = {"x": rng.standard_normal((rows, WIDTH), np.float32), "t": rng.integers(0, VOCABULARY, (rows, 1))}

    def start(blocks: int = 1) -> tuple[Parts, list[str]]:
        parts = Parts()
        parts.constant("last", np.array([1]))
        whole = rng.standard_normal((WIDTH, VOCABULARY), np.float32) / 30
        cuts = np.array_split(whole, blocks, axis=1)
        return parts, [parts.node("MatMul", ["x", parts.constant(f"w{n}", cut)], f"l{n}") for n, cut in enumerate(cuts)]

    parts, (logits,) = start()
    parts.node("LogSoftmax", [logits], "all", axis=1)
    parts.node("GatherElements", ["all", "t"], "picked", axis=1)
    parts.node("Neg", ["picked"], "y")
    yield Form("LogSoftmax, picked", parts.model(inputs, ["y"]), inputs)

    parts, (logits,) = start()
    parts.node("ReduceLogSumExp", [logits, "last"], "total")
    parts.node("GatherElements", [logits, "t"], "picked", axis=1)
    parts.node("Sub", ["total", "picked"], "y")
    yield Form("ReduceLogSumExp less picked", parts.model(inputs, ["y"]), inputs)

    parts, blocks = start(8)
    first = 0
    totals, picked = [], []
    for number, block in enumerate(blocks):
        size = (VOCABULARY + 7 - number) // 8
        totals.append(parts.node("ReduceLogSumExp", [block, "last"], f"total{number}"))
        parts.node("Sub", ["t", parts.constant(f"first{number}", np.array(first))], f"place{number}")
        bounds = [parts.constant(f"low{number}", np.array(0)), parts.constant(f"high{number}", np.array(size - 1))]
        parts.node("Clip", [f"place{number}", *bounds], f"within{number}")
        parts.node("Equal", [f"place{number}", f"within{number}"], f"here{number}")
        parts.node("GatherElements", [block, f"within{number}"], f"taken{number}", axis=1)
        picked.append(
            parts.node("Where", [f"here{number}", f"taken{number}", parts.constant(f"none{number}", np.float32([0]))], f"p{number}")
        )
        first += size
    parts.node("Concat", totals, "totals", axis=1)
    parts.node("ReduceLogSumExp", ["totals", "last"], "total")
    parts.node("Sub", ["total", parts.node("Sum", picked, "picked")], "y")
    yield Form("logits by eighths of the vocabulary", parts.model(inputs, ["y"]), inputs)


def embedding_forms(rows: int) -> Iterator[Form]:
    """Tokens and positions looked up, added and normed: the start of BERT."""
    inputs: dict[str, Array] = {"ids": np.arange(rows, dtype=np.int32)[None], "places": np.arange(rows, dtype=np.int32)[None]}
    shapes = (("words", VOCABULARY), ("positions", 2048))

    parts = Parts()
    tables = [parts.weight(name, size, WIDTH) for name, size in shapes]
    looked_up = [parts.node("Gather", [table, ids], f"{table}-rows") for table, ids in zip(tables, inputs, strict=True)]
    parts.node("Add", looked_up, "sum")
    parts.node("LayerNormalization", ["sum", parts.weight("w", WIDTH), parts.weight("b", WIDTH)], "y", axis=-1)
    yield Form("Gather, Gather, Add, LayerNormalization", parts.model(inputs, ["y"]), inputs)

    parts = Parts()
    words, positions = (parts.weight(name, size, WIDTH) for name, size in shapes)
    norm = [parts.weight("w", WIDTH), parts.weight("b", WIDTH)]
    parts.node("EmbedLayerNormalization", ["ids", "", words, positions, "", *norm, "", "places"], "y", "", domain=CONTRIB)
    yield Form("EmbedLayerNormalization", parts.model(inputs, ["y"]), inputs)


GROUPS: dict[str, Callable[[], Iterator[Form]]] = {
    "linear-decode": lambda: linear_forms(1),
    "linear-prefill": lambda: linear_forms(512),
    "head-decode": lambda: head_forms(1),
    "head-prefill": lambda: head_forms(64),
    "attention-decode": lambda: attention_forms(1, 1023),
    "attention-prompt": lambda: attention_forms(128, 0),
    "attention-prefill": lambda: attention_forms(512, 0),
    "activation-decode": lambda: activation_forms(1),
    "activation-prefill": lambda: activation_forms(512),
    "norm-decode": lambda: norm_forms(1),
    "norm-prefill": lambda: norm_forms(512),
    "projections-decode": lambda: projection_forms(1),
    "projections-prefill": lambda: projection_forms(512),
    "packed-attention-decode": lambda: packed_forms(1, 127),
    "packed-attention-prompt": lambda: packed_forms(128, 0),
    "packed-attention-prefill": lambda: packed_forms(512, 0),
    "loss": lambda: loss_forms(256),
    "embedding-decode": lambda: embedding_forms(1),
    "embedding-prefill": lambda: embedding_forms(512),
}


def runner(form: Form, threads: int) -> Callable[[], float]:
    """A function that runs the form once and gives the seconds it took."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(form.model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in form.inputs.items()}
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    shared = {output: name for name, output in form.shared}
    for output in session.get_outputs():
        if output.name in shared:
            binding.bind_ortvalue_output(output.name, values[shared[output.name]])
        else:
            binding.bind_output(output.name, "cpu")

    def once() -> float:
        start = time.perf_counter()
        session.run_with_iobinding(binding)
        return time.perf_counter() - start

    return once


def measure(forms: Sequence[Form], rounds: int, threads: int) -> None:
    """Print each form's median and its ratio to the first. Each runs after a rest: threads of another session spin for a while."""
    runners = [runner(form, threads) for form in forms]
    for run in runners:
        run()
        run()
    seconds: list[list[float]] = [[] for _ in forms]
    order = list(range(len(forms)))
    for _ in range(rounds):
        random.shuffle(order)
        for index in order:
            seconds[index].append(timed(runners[index], BURST))
    base = np.array(seconds[0])
    for form, taken in zip(forms, seconds, strict=True):
        low, middle, high = np.percentile(np.array(taken) / base, [5, 50, 95])
        print(f"  {np.median(taken) * 1e6:10.1f} us   {middle:5.2f} [{low:.2f}, {high:.2f}]   {form.name}")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--group", choices=tuple(GROUPS), action="append")
    arguments.add_argument("--rounds", type=int, default=20)
    arguments.add_argument("--threads", type=int, default=2)
    options = arguments.parse_args()
    for name in options.group or GROUPS:
        print(name)
        measure(list(GROUPS[name]()), options.rounds, options.threads)


if __name__ == "__main__":
    main()
