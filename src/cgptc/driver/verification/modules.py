"""An artifact against a module given in Python, on inputs that are given too."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cgptc.driver.verification.checks import Check, Verification, compare
from cgptc.driver.verification.reference import Reference
from cgptc.driver.verification.rounding import narrower_dtype
from cgptc.ir.diagnostics import CgptcError, Exit
from cgptc.ir.op import Array
from cgptc.runtime.compiled import Artifact

if TYPE_CHECKING:
    import torch

Examples = Sequence[Any] | Mapping[str, Any]


def verify_module(artifact: Artifact, module: torch.nn.Module, inputs: Sequence[Examples]) -> Verification:
    """Run the artifact on each of the inputs and hold every output against PyTorch in float64, by the rules of T3.

    The noise of the dtype is that of the module itself and of its graph, captured anew for the sizes at hand. Raises `CgptcError` with
    exit 8 where an output is further away than that allows.
    """
    from cgptc.frontend.live_module import capture_live, input_arrays, on_tensors
    from cgptc.frontend.oracle import wide_copy

    own = copy.deepcopy(module).eval()
    wide = wide_copy(own)
    checks: list[Check] = []
    notes: dict[str, None] = {}
    for given in inputs:
        graph = capture_live(module, given, dynamic={})
        arrays = dict(zip((value.name for value in graph.inputs), input_arrays(module, given), strict=True))
        reference = Reference(graph, on_tensors(own, given), on_tensors(wide, given))
        narrower = narrower_dtype(artifact, graph)
        if narrower is not None:
            reference = reference.narrowed(narrower, artifact.load_target())
        arrays = reference.prepared(arrays)
        answer = reference.answer(arrays)
        notes |= reference.notes
        outputs = _compared(artifact, artifact.run(_renamed(artifact, arrays)))
        if len(outputs) != len(answer.outputs):
            raise _other_ports(artifact, "outputs", len(answer.outputs), len(outputs))
        batch = max((array.shape[0] for array in arrays.values() if array.ndim), default=1)
        for (name, expected), actual in zip(answer.outputs.items(), outputs, strict=True):
            whole, found = np.atleast_1d(expected), np.atleast_1d(actual)
            checks.append(compare(f"output '{name}'", batch, whole, found, answer.floors[name], classes=False))
    entries = artifact.folder.manifest.files.values()
    verification = Verification(len(entries), sum(entry.size for entry in entries), tuple(checks), tuple(notes))
    if verification.failed:
        raise _mismatch(artifact, verification)
    return verification


def _renamed(artifact: Artifact, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Under the names that the artifact gives them: a text model's have their own, in the same order. `CgptcError` where it has fewer."""
    pasts = {past for past, _ in artifact.interface.pasts}
    ports = [port for port in artifact.interface.inputs if port.name not in pasts]
    if len(arrays) > len(ports):
        raise _other_ports(artifact, "inputs", len(arrays), len(ports))
    return {port.name: array for port, array in zip(ports, arrays.values(), strict=False)}


def _compared(artifact: Artifact, outputs: Mapping[str, Array]) -> list[Array]:
    """The outputs that the module has too: not the caches."""
    presents = {present for _, present in artifact.interface.pasts}
    return [array for name, array in outputs.items() if name not in presents]


def _other_ports(artifact: Artifact, what: str, theirs: int, ours: int) -> CgptcError:
    fix = "compare with the module that it was compiled from"
    return CgptcError(
        "mismatch", f"the module has {theirs} {what}, the artifact {ours}", exit=Exit.MISMATCH, file=str(artifact.path), fix=fix
    )


def _mismatch(artifact: Artifact, found: Verification) -> CgptcError:
    return CgptcError(
        "mismatch",
        f"{len(found.failed)} of {len(found.checks)} checks differ from PyTorch; first {found.failed[0].what}",
        exit=Exit.MISMATCH,
        file=str(artifact.path),
        fix="please report it with the lines below",
        details=[line for check in found.failed[:3] for line in f"{check.what}: {check.fault}".splitlines()],
    )
