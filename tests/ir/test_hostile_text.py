"""Damaged texts give a graph or a `MalformedError`, never anything else."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from cgptc.ir.diagnostics import MalformedError
from cgptc.ir.graph import Graph
from cgptc.ir.parser import parse_graph
from cgptc.ir.printer import print_graph
from cgptc.testing import graphs

WORDS = re.compile(r'"[^"]*"|[A-Za-z_%][\w.#]*|[0-9][\w.]*|\S')
ODD = [
    "-1",
    "0",
    "7",
    "9223372036854775807",
    "99999999999999999999",
    "0.5",
    "nan",
    "-inf",
    "true",
    "none",
    "_",
    "[",
    "]",
    "{",
    "}",
    "(",
    ")",
]
ODD += [
    "seq",
    "%x0",
    "%0",
    "f32",
    "i64",
    "bool",
    "i4",
    "floordiv(seq, 2)",
    "max(seq, 3)",
    '""',
    '"add"',
    "[]",
    "[0]",
    "[0, 0]",
    "[-1]",
    "loc(",
]


def read(text: str, graph: Graph) -> Graph | MalformedError:
    try:
        return parse_graph(text, graph.store)
    except MalformedError as error:
        return error


@given(graphs(max_nodes=4), st.data())
def test_damaged_texts_are_refused_or_read(graph: Graph, data: st.DataObject) -> None:
    words = WORDS.findall(print_graph(graph))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(words) - 1))
        match data.draw(st.sampled_from(["drop", "odd", "other", "twice", "cut"])):
            case "drop":
                del words[at]
            case "odd":
                words[at] = data.draw(st.sampled_from(ODD))
            case "other":
                words[at] = words[data.draw(st.integers(0, len(words) - 1))]
            case "twice":
                words.insert(at, words[at])
            case _:
                words = words[: at + 1]
        if not words:
            break
    parsed = read(" ".join(words), graph)
    if isinstance(parsed, MalformedError):
        assert re.match(r"\d+:\d+: ", parsed.what)
    else:
        assert print_graph(parse_graph(print_graph(parsed), graph.store)) == print_graph(parsed)


@given(st.text(max_size=60), st.text(alphabet='graph@main{}()[]%=:,*+-"\\/ 01.xe\n', max_size=80))
def test_noise_is_refused(text: str, noise: str) -> None:
    for damaged in (
        text,
        noise,
        "graph @main {" + text,
        "graph @main { input %x : f32[" + noise,
        "graph @main { %0 = constant {weight=" + noise,
    ):
        try:
            parse_graph(damaged)
        except MalformedError:
            continue
        assert damaged.lstrip().startswith(("graph", "/"))
