"""Verification from end to end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cgptc.artifact import check_files, open_folder
from cgptc.driver.verification.checks import Check, Verification
from cgptc.driver.verification.general import GeneralChecks, drawn_inputs
from cgptc.driver.verification.locate import Place, locate
from cgptc.driver.verification.reference import Reference
from cgptc.driver.verification.rounding import narrower_dtype
from cgptc.driver.verification.text import SEED, TextChecks, choose_lengths
from cgptc.frontend.source import CapturedModel, Request, open_model
from cgptc.ir.diagnostics import CgptcError, Exit, MalformedError, UsageError
from cgptc.ir.graph import Graph
from cgptc.ir.op import Array
from cgptc.passes.manager import Pipeline
from cgptc.runtime.compiled import Artifact
from cgptc.runtime.interface import IDS


def verify_files(path: Path) -> Verification:
    """Compare every file with its digest. `MalformedError` names the first that differs."""
    folder = open_folder(path)
    check_files(folder)
    notes = [f"'{name}' is not the artifact's: nothing reads it" for name in folder.extra_files]
    entries = folder.manifest.files.values()
    return Verification(len(entries), sum(entry.size for entry in entries), notes=tuple(notes))


def verify_against(path: Path, model: str, request: Request | None = None, lengths: Sequence[int] | None = None) -> Verification:
    """Open what ``model`` names and compare with it; see `verify_model`. Damaged files and bad lengths are told before the slow work."""
    verify_files(path)
    require_untraded(path)
    artifact = Artifact(open_folder(path))
    choose_lengths(lengths, _longest(artifact), Graph())
    with open_model(model, request or Request()) as captured:
        return verify_model(path, captured, lengths)


def require_untraded(path: Path) -> None:
    """`UsageError` for an artifact that is not to equal its model: another precision or more zeros were asked for."""
    traded = [str(pass_) for pass_ in Pipeline.parse(open_folder(path).manifest.pipeline).passes if pass_.lossy]
    if traded:
        what = f"it was compiled with {', '.join(traded)}, so its numbers are not the model's"
        fix = f"cgptc eval {path} --text FILE --against MODEL compares their quality, cgptc explain {path} precision tells each matrix"
        raise UsageError("traded", what, file=str(path), fix=fix)


def verify_model(path: Path, model: CapturedModel, lengths: Sequence[int] | None = None) -> Verification:
    """Files, then equivalence with PyTorch: of the graph in float64 by T1, of what runs by T3, at several lengths (``lengths``, or chosen
    by the model), whole and through the cache, alone and left-padded in a batch. What was asked to compute in a narrower type, and does,
    is held by the noise of that type (`Reference.narrowed`), and a note says so.

    Raises `CgptcError` with exit 8 where something differs, naming the first wrong node where one can be found.
    """
    files = verify_files(path)
    require_untraded(path)
    artifact, reference = Artifact(open_folder(path)), Reference.of(model)
    narrower = narrower_dtype(artifact, reference.graph)
    if narrower is not None:
        reference = reference.narrowed(narrower)
    digest, notes = artifact.folder.manifest.input.get("sha256"), list(files.notes)
    stranger = "the model to compare with is not the file that the artifact was compiled from" if digest != model.digest() else ""
    checks = _checks(artifact, reference, lengths)
    notes += [*([stranger] if stranger else []), *reference.notes]
    found = Verification(files.file_count, files.byte_count, tuple(checks), tuple(notes))
    if found.failed:
        place = Place(stranger) if stranger else locate(artifact, reference, _inputs_of(found.failed[0], artifact, reference))
        raise _mismatch(path, found, place)
    return found


def _checks(artifact: Artifact, reference: Reference, lengths: Sequence[int] | None) -> list[Check]:
    chosen = choose_lengths(lengths, _longest(artifact), reference.graph)
    checks = TextChecks(artifact, reference) if artifact.folder.manifest.generation else GeneralChecks(artifact, reference)
    return list(checks.run(chosen))


def _longest(artifact: Artifact) -> int:
    """The most tokens that the artifact takes at once; 1 where it has no sequence."""
    seq = artifact.interface.symbols.get("seq")
    longest = seq.high if seq is not None else 1
    placed = artifact.report.backend.get("context", longest)
    if type(placed) is not int or placed < 1:
        raise MalformedError("report", f"a context of {placed!r:.40}", file=str(artifact.path), fix="compile the model again")
    longest = min(longest, placed)
    if artifact.folder.manifest.generation and artifact.text_model.context is not None:
        return min(longest, artifact.text_model.context)
    return longest


def _mismatch(path: Path, found: Verification, place: Place) -> CgptcError:
    """The error for checks that failed: the first few, then where they come from."""
    details = [f"{check.what}, length {check.length}, batch {check.batch}: {check.fault}" for check in found.failed[:3]]
    details += [f"first wrong: {place.culprit}", *(f"  {line}" for line in place.lines)]
    what = f"{len(found.failed)} of {len(found.checks)} checks differ from PyTorch; first wrong: {place.culprit}"
    return CgptcError(
        "mismatch",
        what,
        exit=Exit.MISMATCH,
        file=str(path),
        fix="please report it with the lines below",
        details=[line for detail in details for line in detail.splitlines()],
    )


def _inputs_of(check: Check, artifact: Artifact, reference: Reference) -> Mapping[str, Array]:
    """Inputs of the failed check's size, without a past."""
    if artifact.folder.manifest.generation:
        return {IDS: np.random.default_rng(SEED).integers(0, artifact.text_model.vocabulary, (1, check.length))}
    return drawn_inputs(reference.graph, check.length, check.batch)
