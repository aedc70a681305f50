"""How much of a model the passes made whole: what ``explain`` counts and ``--require-fusion`` asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cgptc.driver.options import require_choice
from cgptc.frontend.source import CapturedModel
from cgptc.ir.diagnostics import CompileError
from cgptc.ir.graph import Graph
from cgptc.ir.op import Op
from cgptc.ir.ops.attention import Attention, Rotary
from cgptc.ir.ops.elementwise import Gelu, Silu
from cgptc.ir.ops.embedding import Embedding
from cgptc.ir.ops.loss import CrossEntropy
from cgptc.ir.ops.matmul import Linear
from cgptc.ir.ops.norm import LayerNorm, RmsNorm
from cgptc.passes.manager import Event, Pass, PassContext
from cgptc.runtime.report import Finding, FusionCount, Fusions

SUBJECTS: dict[str, type[Op]] = {
    "attention": Attention,
    "layer-norm": LayerNorm,
    "rms-norm": RmsNorm,
    "rotary": Rotary,
    "gelu": Gelu,
    "silu": Silu,
    "linear": Linear,
    "embedding": Embedding,
    "cross-entropy": CrossEntropy,
}
"""What can be whole, and the operation that it is then."""


@dataclass
class CountWhole:
    """Counts whole operations when the passes that make them are through: before ``last``, which may take them apart again."""

    last: str
    found: Counter[type[Op]] | None = None

    def before(self, pass_: Pass, index: int, graph: Graph, context: PassContext) -> None:
        """Count, where the pass that takes apart comes next."""
        if pass_.name == self.last and self.found is None:
            self.count(graph)

    def after(self, pass_: Pass, index: int, graph: Graph, context: PassContext, changed: bool) -> None:
        """Nothing: passes may still make operations whole."""

    def count(self, graph: Graph) -> Counter[type[Op]]:
        """The counts of operations by class."""
        self.found = Counter(type(node.op) for node in graph.nodes)
        return self.found


def fusions(model: CapturedModel, whole: Counter[type[Op]], context: PassContext) -> Fusions:
    """What was fused, what nearly was, and the counts. A model has as many attentions as its configuration has layers."""
    done, missed = ([_finding(each) for each in context.findings(kind)] for kind in ("done", "missed"))
    lacking = model.layer_count - whole[Attention] - sum(each.subject == "attention" for each in missed)
    near = Counter(each.subject for each in missed)
    if lacking > 0:
        near["attention"] += lacking
        reason = f"{lacking} of {model.layer_count} layers have nothing that looks like attention"
        missed.append(Finding("fuse-attention", "attention", model.name, reason))
    counts = [FusionCount(subject, whole[op], whole[op] + near[subject]) for subject, op in SUBJECTS.items()]
    return Fusions(tuple(done), tuple(missed), tuple(count for count in counts if count.total))


def check_subjects(names: Sequence[str]) -> None:
    """`UsageError` with the nearest known name for one that is none."""
    for name in names:
        require_choice("fusion", name, tuple(SUBJECTS))


def require_fusions(found: Fusions, names: Sequence[str], file: str) -> None:
    """`CompileError` (exit 5) listing every miss unless each of ``names`` is whole wherever the model has it, and it has it somewhere."""
    counts = {count.subject: count for count in found.counts}
    for name in names:
        count = counts.get(name, FusionCount(name, 0, 0))
        if count.fused == count.total > 0:
            continue
        details = [line for each in found.missed if each.subject == name for line in (f"  --> {each.where}", f"      {each.reason}")]
        what = f"{count.fused} of {count.total} '{name}' are fused" if count.total else f"the model has no '{name}'"
        raise CompileError(
            "fusion-missed", what, file=file, fix=f"mend the places below, or drop {name} from --require-fusion", details=details
        )


def _finding(event: Event) -> Finding:
    return Finding(event.pass_name, event.subject, str(event.location), event.reason)
