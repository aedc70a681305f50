"""Verification from end to end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cgptc.artifact import check_files, open_folder
from cgptc.backends.registry import PlacedSession
from cgptc.driver.verification.checks import Check, Verification
from cgptc.driver.verification.general import GeneralChecks, drawn_inputs
from cgptc.driver.verification.locate import Place, locate
from cgptc.driver.verification.reference import Reference
from cgptc.driver.verification.rounding import narrower_dtype
from cgptc.driver.verification.text import SEED, TextChecks, choose_lengths
from cgptc.frontend.source import CapturedModel, Request, open_model
from cgptc.ir.diagnostics import CgptcError, Exit, UsageError
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
    choose_lengths(lengths, _declared(artifact), Graph())
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
        reference = reference.narrowed(narrower, artifact.load_target())
    digest, notes = artifact.folder.manifest.input.get("sha256"), list(files.notes)
    stranger = "the model to compare with is not the file that the artifact was compiled from" if digest != model.digest() else ""
    notes += _limits(artifact, model)
    checks = _checks(artifact, reference, lengths)
    notes += [*([stranger] if stranger else []), *reference.notes]
    found = Verification(files.file_count, files.byte_count, tuple(checks), tuple(notes))
    if found.failed:
        place = Place(stranger) if stranger else locate(artifact, reference, _inputs_of(found.failed[0], artifact, reference))
        raise _mismatch(path, found, place)
    return found


def _checks(artifact: Artifact, reference: Reference, lengths: Sequence[int] | None) -> list[Check]:
    longest = _longest(artifact)
    chosen = choose_lengths(lengths, longest, reference.graph)
    if artifact.folder.manifest.generation:
        return list(TextChecks(artifact, reference, longest).run(chosen))
    return list(GeneralChecks(artifact, reference).run(chosen))


def _declared(artifact: Artifact) -> int:
    """The most tokens that an artifact says it takes at once; 1 where it has no sequence."""
    seq = artifact.interface.symbols.get("seq")
    longest = seq.high if seq is not None else 1
    if artifact.folder.manifest.generation and artifact.text_model.context is not None:
        return min(longest, artifact.text_model.context)
    return longest


def _longest(artifact: Artifact) -> int:
    """The most tokens that it takes at once, by what is loaded too."""
    declared, session = _declared(artifact), artifact.session
    return min(declared, session.context) if isinstance(session, PlacedSession) and "seq" in artifact.interface.symbols else declared


def _limits(artifact: Artifact, model: CapturedModel) -> list[str]:
    """A note where the artifact takes shorter rows than the model. `CgptcError` where its manifest speaks of another language model: what
    is drawn to compare on follows it.
    """
    seq = model.graph.symbols.get("seq")
    longest, found = seq.high if seq is not None else 1, _longest(artifact)
    if model.text is not None:
        longest = min(longest, model.text.context or longest)
        if artifact.folder.manifest.generation:
            ours, theirs = artifact.text_model, model.text
            for what, told, true in (("vocabulary", ours.vocabulary, theirs.vocabulary), ("context", ours.context, theirs.context)):
                if told != true:
                    fault = f"the manifest says that its {what} is {told}, the model's is {true}"
                    raise CgptcError("mismatch", fault, exit=Exit.MISMATCH, file=str(artifact.path), fix="compile this model again")
    return [f"it takes rows of up to {found} tokens, the model {longest}: no longer ones were compared"] if found < longest else []


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
