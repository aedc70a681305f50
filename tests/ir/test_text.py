"""The text form: printing and parsing are each other's inverse, and faults are named where they stand."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from cgptc.ir.builder import Builder
from cgptc.ir.diagnostics import MalformedError, OpTypeError
from cgptc.ir.dims import Dim, Symbol, maximum
from cgptc.ir.dtypes import DTYPES, DType, bf16, f16, f32, i64
from cgptc.ir.equality import difference, graphs_equal
from cgptc.ir.graph import Graph
from cgptc.ir.loc import Frame, Location
from cgptc.ir.op import OPS, Array, Op
from cgptc.ir.ops.constant import Constant
from cgptc.ir.parser import parse_graph
from cgptc.ir.printer import print_graph
from cgptc.ir.types import TensorType
from cgptc.ir.weight_expressions import Concatenated, Transposed
from cgptc.ir.weights import Dense, Stored, Weight, dense


@dataclass(frozen=True)
class Everything(Op, name="test_everything"):
    """An op with an attribute of every type."""

    a_float: float = 0.5
    an_int: int = 3
    a_flag: bool = False
    a_name: str = "x"
    a_dtype: DType = f32
    a_dim: Dim = 1
    maybe: float | None = None
    sizes: tuple[int, ...] = ()
    dims: tuple[Dim, ...] = ()
    floats: tuple[float, ...] = ()

    def infer(self, x: TensorType, y: TensorType | None = None, *rest: TensorType) -> tuple[TensorType, TensorType]:
        if y is not None and y != x:
            raise OpTypeError(f"'y' must be {x}, got {y}")
        return x, TensorType(self.a_dtype, (self.a_dim,))

    def evaluate(self, x: Array, y: Array | None = None, *rest: Array) -> tuple[Array, Array]:
        assert isinstance(self.a_dim, int)
        return x, np.zeros((self.a_dim,), self.a_dtype.numpy)


def reprinted(graph: Graph) -> Graph:
    """The graph after printing and parsing, checked to print the same bytes."""
    text = print_graph(graph)
    parsed = parse_graph(text)
    assert print_graph(parsed) == text
    assert difference(graph, parsed, hints=True) == ""
    return parsed


def with_op(op: Op) -> Graph:
    graph = Graph()
    Builder(graph).node(op, graph.add_input("x", TensorType(f32, (2, 3))))
    return graph


batch = Symbol("batch", 1, 8)
seq = Symbol("seq", 1, 2048)


def test_a_whole_graph_reads_as_documented() -> None:
    graph = Graph()
    ids = graph.add_input("input_ids", TensorType(i64, (batch.dim, seq.dim)))
    build = Builder(graph, location=Location((Frame("transformer.wte", "gpt2.py", 10), Frame("lm_head"))), stage=2)
    table = build.weight(Stored("wte.weight", f32, (50, 8)))
    node = build.node(Everything(a_dim=seq.dim - 1, sizes=(1, 2)), ids, None, table)
    node.results[0].name = "hidden"
    graph.add_output("logits", node.results[0])
    assert print_graph(graph) == (
        "graph @main(batch: 1..8, seq: 1..2048) {\n"
        "  input %input_ids : i64[batch, seq]\n"
        '  %0 = constant {weight=@"wte.weight": f32[50, 8]} : f32[50, 8] @2 loc("transformer.wte" "gpt2.py":10, "lm_head")\n'
        "  %hidden, %1 = test_everything(%input_ids, _, %0) {a_float=0.5, an_int=3, a_flag=false, "
        'a_name="x", a_dtype=f32, a_dim=seq - 1, maybe=none, sizes=[1, 2], dims=[], floats=[]} : '
        'i64[batch, seq], f32[seq - 1] @2 loc("transformer.wte" "gpt2.py":10, "lm_head")\n'
        "  return logits=%hidden\n"
        "}\n"
    )
    reprinted(graph)


@pytest.mark.parametrize(
    "op",
    [
        Everything(a_float=value)
        for value in (0.1, -0.0, 1e-05, 1e300, 5e-324, math.nan, math.inf, -math.inf, 1, -7, 2.0**-1074, 123456789.123456789)
    ]
    + [
        Everything(an_int=-(2**63) + 1, a_flag=True, maybe=-2.5, sizes=(5,), floats=(1.0, -math.inf, 0.0)),
        Everything(a_name='"\\\n\t\x00é€😀 {},loc()'),
        Everything(a_dim=maximum(batch.dim * seq.dim - 2 * batch.dim, 7) // 3 % 5, dims=(seq.dim, 4, -seq.dim + 3000)),
        *(Everything(a_dtype=dtype) for dtype in DTYPES.values()),
    ],
    ids=repr,
)
def test_every_attribute_survives_the_round_trip(op: Op) -> None:
    reprinted(with_op(op))


def test_names_are_made_unique_and_kept_as_hints() -> None:
    graph = Graph("a graph")
    x = graph.add_input("x", TensorType(f32, (2,)))
    graph.add_input("0", TensorType(f32))
    graph.add_input("", TensorType(f32))
    graph.add_input("past_key_values.0.key", TensorType(f32))
    graph.add_input('we"ird #1 %', TensorType(f32))
    for hint in ("x", "x", "", "x#1", "y", "y", "", "1", "_", "a.b", "a b"):
        Builder(graph).node(Everything(), x).results[0].name = hint
    graph.add_output("return", x)
    graph.add_output("present.0.key", x)
    graph.add_output("an output", x)
    parsed = reprinted(graph)
    assert [value.name for value in parsed.inputs] == ["x", "0", "", "past_key_values.0.key", 'we"ird #1 %']
    assert [node.results[0].name for node in parsed.nodes][:4] == ["x", "x", "", "x#1"]


def test_locations_without_a_file_a_path_or_a_line_survive() -> None:
    frames = (Frame("a"), Frame("", "f.py", 3), Frame("b", "f.py"), Frame("", "", 5), Frame(""), Frame('q"', "a b.py", 2**40))
    graph = with_op(Everything())
    for node in graph.nodes:
        graph.set_location(node, Location(frames))
    reprinted(graph)


ODD_WEIGHTS: list[Weight] = [
    Stored('odd "name" \\ é', bf16, (2, 0, 3)),
    Stored("", f32, ()),
    dense(np.float32(0.1)),
    dense(np.asarray([0.1, np.nan, np.inf, -np.inf, -0.0, 1e-45], np.float32)),
    dense(np.asarray([1e-5, 65504, 6e-8], np.float16)),
    dense(np.asarray([0.1, 3e38], bf16.numpy)),
    dense(np.asarray([[0.1, 5e-324], [1e300, 1 / 3]], np.float64)),
    dense(np.asarray([-(2**63), 2**63 - 1], np.int64)),
    dense(np.asarray([0, 255], np.uint8)),
    dense(np.asarray([-8, 7], np.int8).astype(DTYPES["i4"].numpy)),
    dense(np.asarray([[True], [False]])),
    dense(np.arange(100, dtype=np.float32)),
    dense(np.zeros((0, 4), np.float32)),
    Dense(f16, (2,), b"\x01\x7e\x02\xfe"),  # NaNs that carry something
    Dense(f32, (1,), b"\x01\x00\xc0\x7f"),
    Transposed(Concatenated((Stored("q", f32, (2, 3)), Stored("k", f32, (4, 3))), 0), (1, 0)),
]


@pytest.mark.parametrize("weight", ODD_WEIGHTS, ids=lambda weight: str(weight)[:40])
def test_every_weight_survives_the_round_trip_bit_by_bit(weight: Weight) -> None:
    graph = Graph()
    Builder(graph).weight(weight)
    (node,) = reprinted(graph).nodes
    assert isinstance(node.op, Constant)
    assert node.op.weight == weight
    assert node.op.weight.key == weight.key


def test_equality_sees_each_thing_that_may_differ() -> None:
    def graph(
        op: Op = Everything(),
        name: str = "x",
        stage: int | None = None,
        path: str = "a",
        output: str = "y",
        pick: int = 0,
        swap: bool = False,
    ) -> Graph:
        made = Graph()
        x, z = made.add_input(name, TensorType(f32, (2,))), made.add_input("z", TensorType(f32, (2,)))
        node = made.insert(op, [z if swap else x], location=Location((Frame(path),)), stage=stage)
        made.add_output(output, node.results[pick])
        return made

    same = graph()
    assert graphs_equal(same, graph(Everything(maybe=None)))
    others = [
        graph(Everything(an_int=4)),
        graph(Everything(a_float=-0.5)),
        graph(Everything(a_name="y")),
        graph(Everything(sizes=(1,))),
        graph(name="w"),
        graph(stage=0),
        graph(path="b"),
        graph(output="w"),
        graph(pick=1),
        graph(swap=True),
        Graph(),
    ]
    for other in others:
        assert difference(same, other)
    assert graphs_equal(graph(Everything(a_float=math.nan)), graph(Everything(a_float=math.nan)))
    assert not graphs_equal(graph(Everything(a_float=0.0)), graph(Everything(a_float=-0.0)))
    assert not graphs_equal(graph(Everything(an_int=True)), graph(Everything(an_int=1)))


HEAD = "graph @main(batch: 1..8) {\n  input %x : f32[batch, 2]\n"

FAULTS = {
    "": "1:1: expected 'graph', got the end of the text",
    "graph @main {": "1:14: expected a node such as '%y = add(%a, %b)', or 'return', got the end of the text",
    "graph main {}": "1:7: expected '@' before the graph's name, got 'main'",
    "graph @m(b: 1..8, b: 1..2) {": "1:19: symbol 'b' is declared twice",
    "graph @m(b: 8..1) {": "1:10: the bounds of 'b' are out of order",
    "graph @m(none: 1..8) {": "1:10: 'none' is not a name for a symbol",
    "graph @m(b: 1..9223372036854775808) {": "a bound must be below 2**63",
    "graph @m { return } x": "1:21: expected the end of the text, got 'x'",
    "graph @m { input %0 : f32[] return }": "1:18: an input needs a name",
    "graph @m { input %x : f33[] return }": "unknown dtype 'f33': did you mean",
    "graph @m { input %x : f32[-1] return }": "a dimension must not be negative",
    "graph @m { input %x : f32[sec] return }": "unknown symbol 'sec'",
    "graph @m(seq: 1..4) { input %x : f32[sec] return }": "1:38: unknown symbol 'sec': did you mean 'seq'?",
    "graph @m(s: 1..4) { input %x : f32[floordiv(s, 0)] return }": "1:48: the divisor of 'floordiv' must be positive, got 0",
    "graph @m { input %x : f32[" + "1," * 40 + "] return }": "a type has at most 32 dimensions",
    "graph @m { ; }": "1:12: unexpected character ';'",
    'graph @"m': "1:8: unexpected character",
    'graph @"\\ud800" { return }': "a string in JSON's notation was expected",
    'graph @"\\q" { return }': "a string in JSON's notation was expected",
    HEAD + "  input %x : f32[] return }": "3:9: the graph already has an input 'x'",
    HEAD + "  %y = test_everythin(%x) return }": "3:8: unknown op 'test_everythin': did you mean 'test_everything'?",
    HEAD + "  %y = iota(%x) {size=3} return }": "3:8: 'iota' takes (), got 1 operands",
    HEAD + "  %y = iota return }": "3:8: 'iota' needs the attribute 'size'",
    HEAD + "  %y = iota {sice=3} return }": "3:14: 'iota' has no attribute 'sice': did you mean 'size'?",
    HEAD + "  %y = iota {size=3, size=3} return }": "3:22: attribute 'size' is given twice",
    HEAD + "  %y = iota {size=3, dtype=4} return }": "expected a dtype, got '4'",
    HEAD + "  %y = iota {size=0.5} return }": "3:19: expected a dimension, got '0.5'",
    HEAD + "  %y = iota {size=3} : i64[4] return }": "3:24: 'iota' gives i64[3] here, got i64[4]",
    HEAD + "  %y = iota {size=3} @-1 return }": "expected a stage, got '-'",
    HEAD + "  %x = iota {size=3} return }": "3:3: '%x' is defined twice",
    HEAD + "  %y, %z = iota {size=3} return }": "3:12: 'iota' has 1 results, got 2 names",
    HEAD + "  %y, %z = test_everything(%w) return }": "3:28: '%w' is not defined here",
    HEAD + "  %y, %z = test_everything(%y) return }": "'%y' is not defined here",
    HEAD + "  %y, %z = test_everything(_) return }": "operand 'x' of 'test_everything' must not be absent",
    HEAD + "  %y, %z = test_everything(%x, _, _) return }": "takes no absent operands after the first 2",
    HEAD + "  %y, %z = test_everything() return }": "'test_everything' takes (x, y?, *rest), got 0 operands",
    HEAD + "  %i = iota {size=3} %y, %z = test_everything(%x, %i) return }": "'y' must be f32[batch, 2], got i64[3]",
    HEAD + "  %y, %z = test_everything(%x) {a_flag=1} return }": "'a_flag' of 'test_everything'",
    HEAD + "  %y, %z = test_everything(%x) {an_int=true} return }": "expected an integer for 'an_int' of 'test_everything', got 'true'",
    HEAD + "  %y, %z = test_everything(%x) {an_int=batch} return }": "expected an integer for 'an_int' of 'test_everything', got 'batch'",
    HEAD + "  %y, %z = test_everything(%x) {a_float=1e999} return }": "is too large for a float",
    HEAD + "  %y, %z = test_everything(%x) {sizes=3} return }": "'sizes' of 'test_everything'",
    HEAD + "  %y, %z = test_everything(%x) {an_int=[3]} return }": "must be an integer, got a list",
    HEAD + "  return a=%x, a=%x }": "3:16: the graph already has an output 'a'",
    HEAD + "  return a=%q }": "3:12: '%q' is not defined here",
    HEAD + '  %y = constant {weight=@"w": f32[batch]} return }': "unknown symbol 'batch'",
    HEAD + "  %y = constant {weight=dence([]: f32[0])} return }": "unknown weight 'dence': did you mean 'dense'?",
    HEAD + "  %y = constant {weight=dense([1, 2]: f32[3])} return }": "f32[3] has 3 elements, got 2",
    HEAD + "  %y = constant {weight=dense([300]: i8[1])} return }": "elements must be between -128 and 127",
    HEAD + "  %y = constant {weight=dense([1e39]: f32[1])} return }": "elements are too large for f32",
    HEAD + "  %y = constant {weight=dense([x]: f32[1])} return }": "could not convert string to float",
    HEAD + "  %y = constant {weight=dense(0x0: f32[1])} return }": "an even number of digits",
    HEAD + "  %y = constant {weight=dense(0x00: f32[9223372036854775807, 1000])} return }": "elements, got 0",
    HEAD + '  %y = constant {weight=transposed(@"w": f32[2, 3], permutation=[0, 0])} return }': "'permutation' must order",
    HEAD + '  %y = constant {weight=transposed(@"w": f32[2, 3], [0, 0])} return }': "expected 'permutation', got '['",
}


@pytest.mark.parametrize("text", FAULTS, ids=lambda text: text[-50:])
def test_a_fault_is_named_with_line_and_column(text: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_graph(text, file="x.txt")
    assert FAULTS[text] in caught.value.line()
    assert caught.value.file == "x.txt"
    line, column, _ = caught.value.what.split(":", 2)
    assert int(line) >= 1
    assert int(column) >= 1


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "%y = iota {size=" + "max(batch, " * 5000,
        HEAD + "%y = iota {size=" + "*".join(["batch"] * 500) + "}",
        HEAD + "%y = iota {size=" + "+".join(f"{i}*batch" for i in range(5000)) + "}",
        HEAD + "%y = iota {size=" + "*".join(["max(batch, 2)"] * 40 + ["9" * 18] * 80) + "*",
        HEAD + "%y = iota {size=" + "9" * 10000,
        HEAD + "%y = constant {weight=" + "transposed(" * 5000,
        HEAD + "%y, %z = test_everything(%x) {sizes=" + "[" * 5000,
        "(" * 100000,
        " " * 100000 + ";",
        "// " * 50000 + "\n;",
        '"' + "\\" * 100001,
    ],
    ids=lambda text: text[-20:],
)
def test_hostile_text_is_refused_without_deep_recursion_or_large_numbers(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_graph(text)


def test_defaults_and_types_may_be_left_out() -> None:
    graph = parse_graph('graph @m { %y = constant {weight=@"w": f32[2]} // said once\n %i = iota {size=4} return i=%i }')
    assert [str(value.type) for node in graph.nodes for value in node.results] == ["f32[2]", "i64[4]"]


def test_comments_inside_types_and_types_at_the_end_are_read() -> None:
    text = "graph @m(b: 1..2) { input %x : f32[b, // two]\n 2] input %y : f32[b, // two]\n 2] input %z : f32[b, 3] return }"
    assert [str(value.type) for value in parse_graph(text).inputs] == ["f32[b, 2]", "f32[b, 2]", "f32[b, 3]"]
    with pytest.raises(MalformedError, match="got the end of the text"):
        parse_graph("graph @m { input %x : f32[2")


def test_every_op_has_attributes_that_the_text_form_knows() -> None:
    from cgptc.ir.attributes import attributes

    for op in OPS.values():
        attributes(op)
