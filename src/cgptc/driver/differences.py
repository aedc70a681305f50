"""What is different between two graphs or two artifacts: nodes aligned by what they are, not by how their values are numbered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

from cgptc.artifact import open_folder
from cgptc.artifact.canonical import Json, canonical_json
from cgptc.artifact.manifest import MANIFEST, Manifest
from cgptc.driver.examination import read_graph
from cgptc.ir.equality import difference
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.parser import parse_graph
from cgptc.ir.printer import node_text, value_names
from cgptc.ir.value_text import op_attributes
from cgptc.runtime.compiled import GRAPH_FILE
from cgptc.runtime.interface import Interface


@dataclass(frozen=True)
class Differences:
    """``facts`` are rows (what, left, right) of the interface and, for artifacts, the manifest; ``counts`` the same of operations;
    ``lines`` the nodes that only one side has, marked ``-`` or ``+``, and those that read other values, marked ``~``.
    """

    facts: tuple[tuple[str, str, str], ...] = ()
    counts: tuple[tuple[str, int, int], ...] = ()
    lines: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        return not (self.facts or self.counts or self.lines)

    def to_json(self) -> dict[str, Json]:
        return {
            "equal": self.equal,
            "facts": [{"what": what, "left": left, "right": right} for what, left, right in self.facts],
            "operations": [{"name": name, "left": left, "right": right} for name, left, right in self.counts],
            "nodes": list(self.lines),
        }


def compare_paths(left: Path, right: Path) -> Differences:
    """Two artifacts, two graphs in text form, or one of each, by their graphs. Raises `CgptcError` for anything else."""
    (first, manifest), (second, other) = _opened(left), _opened(right)
    found = compare_graphs(first, second)
    facts = _manifest_facts(manifest, other) if manifest is not None and other is not None else ()
    return Differences((*facts, *found.facts), found.counts, found.lines)


def _opened(path: Path) -> tuple[Graph, Manifest | None]:
    if not (path / MANIFEST).is_file():
        return read_graph(path), None
    folder = open_folder(path)
    return parse_graph(folder.read(GRAPH_FILE).decode("utf-8", "replace"), file=str(path / GRAPH_FILE)), folder.manifest


def compare_graphs(left: Graph, right: Graph) -> Differences:
    """Everything that is not the same in both; nothing where the two are equal but for names of values."""
    interfaces = [Interface.of(graph).to_json() for graph in (left, right)]
    facts = [(key, _shown(interfaces[0][key]), _shown(interfaces[1][key])) for key in interfaces[0]]
    counts = [Counter(node.op.name for node in graph.nodes) for graph in (left, right)]
    names = sorted(counts[0].keys() | counts[1].keys())
    lines = tuple(_lines(left, right))
    if not lines and (rest := difference(left, right)):
        lines = (f"~ {rest}",)
    return Differences(
        tuple(row for row in facts if row[1] != row[2]),
        tuple((name, counts[0][name], counts[1][name]) for name in names if counts[0][name] != counts[1][name]),
        lines,
    )


def _lines(left: Graph, right: Graph) -> list[str]:
    nodes = list(left.nodes), list(right.nodes)
    keys = list(map(_key, nodes[0])), list(map(_key, nodes[1]))
    names = value_names(left), value_names(right)
    same: dict[Value, Value] = dict(zip(left.inputs, right.inputs, strict=False))
    lines: list[str] = []
    for tag, low, high, start, stop in SequenceMatcher(None, keys[0], keys[1], autojunk=False).get_opcodes():
        if tag != "equal":
            lines += [f"- {node_text(node, names[0])}" for node in nodes[0][low:high]]
            lines += [f"+ {node_text(node, names[1])}" for node in nodes[1][start:stop]]
            continue
        for node, twin in zip(nodes[0][low:high], nodes[1][start:stop], strict=True):
            same.update(zip(node.results, twin.results, strict=True))
            # A value that only one side has is told where it is made, not at each of its uses.
            moved = any(a is not None and a in same and same[a] is not b for a, b in zip(node.operands, twin.operands, strict=False))
            if moved:
                lines.append(f"~ {node_text(node, names[0])}  became  {node_text(twin, names[1])}")
    return lines


def _key(node: Node) -> tuple[str, ...]:
    """What a node is, whatever its operands are called."""
    types = (str(value.type) for value in node.results)
    return node.op.name, op_attributes(node.op), str(node.stage), str(len(node.operands)), str(node.location), *types


def _manifest_facts(left: Manifest, right: Manifest) -> tuple[tuple[str, str, str], ...]:
    rows: list[tuple[str, str, str]] = [("target", left.target, right.target), ("passes", left.pipeline, right.pipeline)]
    for what in ("input", "options", "versions"):
        first, second = getattr(left, what), getattr(right, what)
        rows += [(f"{what} '{key}'", _entry(first, key), _entry(second, key)) for key in sorted({*first, *second})]
    sizes = [{name: f"{entry.size} bytes, sha256 {entry.sha256[:12]}" for name, entry in side.files.items()} for side in (left, right)]
    rows += [(f"file '{name}'", sizes[0].get(name, "-"), sizes[1].get(name, "-")) for name in sorted({*sizes[0], *sizes[1]})]
    return tuple(row for row in rows if row[1] != row[2])


def _entry(values: Mapping[str, Json], key: str) -> str:
    return _shown(values[key]) if key in values else "-"


def _shown(value: Json) -> str:
    return value if isinstance(value, str) else " ".join(canonical_json(value).split())
