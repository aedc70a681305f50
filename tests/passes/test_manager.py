from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest

from cgptc.ir.builder import Builder
from cgptc.ir.diagnostics import UsageError
from cgptc.ir.dtypes import f32
from cgptc.ir.graph import Graph
from cgptc.ir.loc import Frame, Location
from cgptc.ir.ops import Relu
from cgptc.ir.types import TensorType
from cgptc.passes import instruments
from cgptc.passes.legalise import unsupported
from cgptc.passes.manager import PASSES, Pass, PassContext, Pipeline


@dataclass(frozen=True)
class Probe(Pass, name="test-probe"):
    """A pass with one option of every kind."""

    share: float = 0.5
    count: int = 3
    block: str = "1x16"
    keep: bool = False
    layers: tuple[str, ...] = ()
    limit: int | None = None

    def run(self, graph: Graph, context: PassContext) -> bool:
        return False


def test_a_pipeline_prints_as_it_was_written() -> None:
    text = 'test-probe{share=0.75 block=16x16 keep=true layers=h.*;lm_head limit=4},dead-code,test-probe{block="a b"}'
    assert str(Pipeline.parse(text)) == text


def test_defaults_are_not_printed() -> None:
    assert str(Pipeline.parse("test-probe{share=0.5 count=3}")) == "test-probe"


def test_spaces_around_names_do_not_matter() -> None:
    assert Pipeline.parse(" dead-code , test-probe { count=4 } ") == Pipeline((PASSES["dead-code"](), Probe(count=4)))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dead-cod", "did you mean 'dead-code'"),
        ("test-probe{shar=1}", "did you mean 'share'"),
        ("test-probe{count=many}", "takes int, got 'many'"),
        ("test-probe{keep=1}", "takes bool, got '1'"),
        ("test-probe{count=1 count=2}", "given twice"),
        ("test-probe{count=1", "never closed"),
        ("test-probe dead-code", "expected ','"),
        ("test-probe{count}", "expected 'option=value'"),
        ("Probe", "expected a pass name"),
        ("dead-code,,cse", "expected a pass name"),
    ],
)
def test_a_wrong_pipeline_is_one_clear_error(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        Pipeline.parse(text)
    assert says in str(caught.value)


def test_a_second_pass_of_a_name_is_refused_and_names_the_first() -> None:
    with pytest.raises(TypeError, match=r"already defined by .*Probe"):
        type("Other", (Pass,), {}, name="test-probe")


def test_a_pass_can_be_taken_out() -> None:
    assert str(Pipeline.parse("cse,dead-code,cse").without(["cse"])) == "dead-code"
    with pytest.raises(UsageError, match="no pass"):
        Pipeline.parse("cse").without(["nothing"])


def test_every_pass_of_the_package_is_registered() -> None:
    Pipeline.parse("cse")
    assert {"canonicalize", "fuse-attention", "normalize-masks", "add-cache", "legalise", "sink-slices"} <= set(PASSES)


@pytest.mark.parametrize(("count", "shown", "rest"), [(1, 1, ""), (20, 20, ""), (23, 20, "  … and 3 more")])
def test_what_a_target_cannot_lower_is_listed_with_its_places(count: int, shown: int, rest: str) -> None:
    graph = Graph()
    build = Builder(graph, location=Location((Frame("block.3", "model.py", 7),)))
    x = graph.add_input("x", TensorType(f32, (2,)))
    error = unsupported("nothing", [build.node(Relu(), x) for _ in range(count)])
    assert error.what == f"nothing cannot lower {count} node{'s' if count > 1 else ''}"
    assert sum("block.3" in line for line in error.details) == sum("relu" in line for line in error.details) == shown
    assert error.details[2 * shown :] == ((rest,) if rest else ())


def test_only_a_graph_that_was_edited_since_is_verified_again(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(instruments, "verify", lambda graph: seen.append(graph.version))

    @dataclass(frozen=True)
    class Edit(Pass):
        """Adds so many inputs, and always says that nothing changed."""

        name: ClassVar[str] = "test-edit"
        count: int = 0

        def run(self, graph: Graph, context: PassContext) -> bool:
            for _ in range(self.count):
                graph.add_input(f"x{len(graph.inputs)}", TensorType(f32, (2,)))
            return False

    watch = instruments.VerifyEach()
    Pipeline((Edit(), Edit(), Edit(1), Edit(), Edit(2))).run(Graph(), None, [watch])
    assert seen == [0, 1, 3]
    Pipeline((Edit(),)).run(Graph(), None, [watch])
    assert seen == [0, 1, 3, 0]
