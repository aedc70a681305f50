"""One ONNX model per stage, and the plan by which they work together. Imports onnx-ir."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cgptc.backends.onnx.emission import emit_model
from cgptc.backends.onnx.options import OnnxOptions
from cgptc.backends.onnx.staged_files import stage_file
from cgptc.backends.registry import Emitted
from cgptc.ir.graph import Graph
from cgptc.ir.stage_graphs import stage_graph
from cgptc.ir.stage_plan import PLAN_FILE, StagePlan
from cgptc.ir.staged import Staged


def emit_stages(graph: Graph, folder: Path, options: OnnxOptions) -> Emitted:
    """Write a model per stage, with its weights beside it, and the plan. `CompileError` lists what has no lowering."""
    staged = Staged.of(graph)
    plan = StagePlan.of(staged)
    parts = [emit_model(stage_graph(staged, index), folder / stage_file(index), options) for index in range(len(staged.stages))]
    (folder / PLAN_FILE).write_text(json.dumps(plan.to_json(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    files = [name for part in parts for name in part.files]
    digests = {name: digest for part in parts for name, digest in part.digests.items()}
    return Emitted((*files, PLAN_FILE), _facts([part.facts for part in parts], plan), digests)


def _facts(parts: list[Mapping[str, Any]], plan: StagePlan) -> dict[str, object]:
    """Sums over the stages, what they have in common, and the plan."""
    forms = sorted({form for part in parts for form in part["cached_attention"].split(",")} - {""})
    tokens = {part["new_tokens_of_a_batch_with_a_past"] for part in parts}
    return {
        **parts[0],
        **{name: sum(part[name] for part in parts) for name in ("nodes", "weight_bytes", "weight_count")},
        "cached_attention": ",".join(forms),
        "new_tokens_of_a_batch_with_a_past": "one" if "one" in tokens else "any",
        "stages": [
            {"file": part_file, "nodes": part["nodes"], "weight_bytes": part["weight_bytes"]}
            for part_file, part in zip(map(stage_file, range(len(parts))), parts, strict=True)
        ],
        "edges": plan.to_json()["edges"],
    }
