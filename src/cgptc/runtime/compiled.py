"""The artifact in memory: run it, generate with it, whatever its target."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from cgptc.artifact import ArtifactFolder, ArtifactWriter, check_files, open_folder
from cgptc.backends.registry import BUILT_IN, Backend, PlacedSession, Session, StagedBackend, backend
from cgptc.ir.diagnostics import MalformedError, UsageError
from cgptc.ir.graph import Graph
from cgptc.ir.op import Array
from cgptc.ir.parser import parse_graph
from cgptc.ir.stage_plan import PLAN_FILE, StagePlan
from cgptc.runtime.engine import CachedEngine, CausalInterface, DecoderEngine, DecodingSession, RereadingEngine
from cgptc.runtime.generation import TextModel, generate
from cgptc.runtime.inputs import complete_inputs, require_known_ids
from cgptc.runtime.interface import IDS, LOGITS, MASK, Interface
from cgptc.runtime.local_stages import LocalEngine
from cgptc.runtime.report import Report
from cgptc.runtime.sampler import Sampling
from cgptc.runtime.stage_worker import StageWorker
from cgptc.runtime.staged_session import StagedSession
from cgptc.runtime.tokenizer import TOKENIZER_FILES, Tokenizer, can_read

if TYPE_CHECKING:
    from cgptc.frontend.compiled_module import CompiledModule

GRAPH_FILE, REPORT_FILE = "graph.cgir", "report.json"
MOST_IDS = 1 << 31
"""Of a vocabulary, and tokens of a context: more are none of a language model's."""

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Target:
    """A backend with its options."""

    backend: Backend[Any]
    options: Any


@dataclass(frozen=True)
class Generation:
    """One row's new tokens; ``text`` where there is a tokenizer, ``ended`` where the last one is a stop token."""

    ids: tuple[int, ...]
    text: str | None
    ended: bool


class Artifact:
    """A compiled model. Get one from `cgptc.compile` or `cgptc.load`."""

    def __init__(self, folder: ArtifactFolder, keep: tempfile.TemporaryDirectory[str] | None = None) -> None:
        self.folder = folder
        self.fidelity: str | None = None
        """Which engine a wafer artifact runs on, ``fast`` or ``pe``; the target's own where None. To be set before the first run."""
        self._keep = keep  # the folder of an artifact that was compiled to nowhere lives as long as this object

    @classmethod
    def open(cls, path: Path) -> Artifact:
        """Open an artifact after checking every digest. The errors are `open_folder`'s and `check_files`'."""
        folder = open_folder(path)
        check_files(folder)
        return cls(folder)

    @property
    def path(self) -> Path:
        return self.folder.path

    @property
    def target(self) -> str:
        return self.folder.manifest.target

    @cached_property
    def interface(self) -> Interface:
        """Inputs and outputs."""
        return Interface.from_json(self.folder.manifest.interface, str(self.path))

    @cached_property
    def report(self) -> Report:
        """What the compile did."""
        try:
            return Report.from_json(self.folder.read_json(REPORT_FILE))
        except ValueError as error:
            raise MalformedError("report", f"'{REPORT_FILE}' {error}", file=str(self.path), fix="compile the model again") from None

    @cached_property
    def graph(self) -> Graph:
        """The tensor graph after all passes, without weight bytes."""
        text = self.folder.read(GRAPH_FILE)
        try:
            return parse_graph(text.decode(), file=str(self.path / GRAPH_FILE))
        except UnicodeDecodeError:
            raise MalformedError("graph", f"'{GRAPH_FILE}' is not UTF-8", file=str(self.path), fix="compile the model again") from None

    def load_target(self) -> Target:
        """The backend, with the options that the artifact was compiled with. `MalformedError` where they are not its own."""
        found = self.folder.manifest.options.get(self.target)
        target = backend(self.target)
        try:
            return Target(target, target.options(**found) if isinstance(found, dict) else target.options())
        except (TypeError, UsageError):
            raise MalformedError("options", f"the options of '{self.target}' are not its own", file=str(self.path)) from None

    @cached_property
    def plan(self) -> StagePlan | None:
        """How the model's stages work together; None where it is in one piece."""
        if PLAN_FILE not in self.folder.manifest.files:
            return None
        plan = StagePlan.from_json(self.folder.read_json(PLAN_FILE), str(self.path))
        ports = [tuple(port.name for port in side) for side in (self.interface.inputs, self.interface.outputs)]
        if [plan.inputs, plan.outputs] != ports:
            what = f"'{PLAN_FILE}' has other inputs or outputs than the manifest"
            raise MalformedError("stages", what, file=str(self.path), fix="compile the model again")
        return plan

    @cached_property
    def session(self) -> Session:
        """The model, loaded to run; one in stages with a thread for each."""
        target = self.load_target()
        if self.plan is not None:
            return self._staged_session(self.plan, "local", None, None)
        if self.fidelity is None:
            loaded: Session = target.backend.load(self.path, target.options)
        elif self.target == "wafer":
            loaded = import_module(BUILT_IN["wafer"]).BACKEND.load(self.path, target.options, self.fidelity)
        else:
            what = f"an artifact for {self.target} has one engine"
            raise UsageError("unknown-option", what, file=str(self.path), fix="drop --fidelity")
        named = {port.name for port in (*self.interface.inputs, *self.interface.outputs)}
        other = named ^ {*loaded.input_names, *loaded.output_names}
        if other:
            what = f"the manifest and the model's files do not agree on {', '.join(map(repr, sorted(other)))}"
            raise MalformedError("interface", what, file=str(self.path), fix="compile the model again")
        return loaded

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer that was beside the model, if one was."""
        present = [name for name in TOKENIZER_FILES if name in self.folder.manifest.files]
        return Tokenizer({name: self.folder.read(name) for name in present}, str(self.path)) if can_read(present) else None

    @cached_property
    def text_model(self) -> TextModel:
        """What generation needs to know. `UsageError` where the model is not a causal language model over ids."""
        facts = self.folder.manifest.generation
        names = {port.name for port in (*self.interface.inputs, *self.interface.outputs)}
        if not facts or IDS not in names or LOGITS not in names:
            raise UsageError("no-generation", "it is not a causal language model", file=str(self.path), fix="use run with --inputs")
        match facts:
            case {"vocabulary": int() as vocabulary, "context": int() | None as context, "stop": list() as stop} if (
                0 < vocabulary <= MOST_IDS and (context is None or 0 < context <= MOST_IDS)
            ):
                return TextModel(vocabulary, context, frozenset(token for token in stop if isinstance(token, int)))
            case _:
                raise MalformedError("generation", "the manifest's 'generation' is not understood", file=str(self.path))

    def run(self, inputs: Mapping[str, Any] | None = None, /, **named: Any) -> dict[str, Array]:
        """Outputs by name from inputs by name. What is not given has its natural default: a mask of ones, an empty past."""
        given = {**(inputs or {}), **named}
        inputs = complete_inputs(self.interface, given)
        if IDS in inputs:
            require_known_ids(inputs[IDS], self.folder.manifest.generation.get("vocabulary"))
        outputs = self.session.run(inputs)
        # A cache goes back in as it came out: a target may keep it in another type than the interface takes.
        types = {port.name: port.type.dtype.numpy for port in self.interface.outputs}
        for _, present in self.interface.pasts:
            outputs[present] = outputs[present].astype(types[present], copy=False)
        return outputs

    @contextmanager
    def running_on(self, engine: str, *, address: str | None = None, micro_batches: int | None = None) -> Iterator[Artifact]:
        """This artifact with its stages on an engine: "local", threads of this process, or "ray", actors on a Ray that is started here, or
        on the cluster at ``address``. A batch is cut into at most ``micro_batches``. The engine stops at the end of the block.

        `UsageError` for an unknown engine, a model in one piece, or where Ray is missing; `StageError` where a stage does not load.
        """
        if engine not in ENGINES:
            raise UsageError("bad-value", f"there is no engine '{engine}'", fix=f"choose one of {', '.join(ENGINES)}")
        if micro_batches is not None and micro_batches < 1:
            raise UsageError("bad-value", f"{micro_batches} is no number of micro-batches", fix="give 1 or more")
        if self.plan is None:
            raise UsageError("not-staged", "the model is in one piece", file=str(self.path), fix="compile it with --stages auto")
        session = self._staged_session(self.plan, engine, address, micro_batches)
        running = Artifact(self.folder, self._keep)
        running.session = session
        try:
            yield running
        finally:
            session.close()

    def _staged_session(self, plan: StagePlan, engine: str, address: str | None, micro_batches: int | None) -> StagedSession:
        target = self.load_target()
        if not isinstance(target.backend, StagedBackend):
            raise MalformedError("stages", f"the target '{self.target}' has no stages to load", file=str(self.path))
        if engine == "ray":
            from cgptc.runtime.ray_stages import RayEngine

            actors = RayEngine(self.path, self.target, target.options, plan, address)
            return StagedSession(plan, self.interface, actors, micro_batches)
        stages = [target.backend.load_stage(self.path, index, target.options) for index in range(len(plan.stages))]
        workers = [StageWorker(index, plan, stage) for index, stage in enumerate(stages)]
        return StagedSession(plan, self.interface, LocalEngine(workers), micro_batches)

    def module(self) -> CompiledModule:
        """A PyTorch module with this model's inputs and outputs, to stand where the original stood; without gradients."""
        from cgptc.frontend.compiled_module import CompiledModule

        outputs = [port.name for port in self.interface.outputs]
        presents = {present for _, present in self.interface.pasts}
        return CompiledModule([port.name for port in self.interface.inputs], outputs, presents, self.run, self.interface.result)

    def engine(self, session: Session | None = None) -> DecoderEngine:
        """A decoder over this model, for the generation loop; on the session given instead of the artifact's own."""
        session = session if session is not None else self.session
        names = {port.name for port in self.interface.inputs}
        causal = CausalInterface(IDS, MASK if MASK in names else None, LOGITS, self.interface.pasts)
        if not self.interface.cached:
            return RereadingEngine(session, causal)
        if causal.mask is not None and isinstance(session, DecodingSession):
            return session.decoder()
        return CachedEngine(session, causal)

    def encode(self, prompt: str) -> list[int]:
        """A prompt's ids; `UsageError` where the artifact has no tokenizer."""
        if self.tokenizer is None:
            fix = "give ids (--prompt-ids 1,2,3), or compile with --tokenizer"
            raise UsageError("no-tokenizer", "there is no tokenizer for a text prompt", file=str(self.path), fix=fix)
        return self.tokenizer.encode(prompt)

    def generate(self, prompt: str | Sequence[int], *, max_new_tokens: int | None = None, sampling: Sampling | None = None) -> Generation:
        """Continue one prompt."""
        (generation,) = self.generate_batch([prompt], max_new_tokens=max_new_tokens, sampling=sampling)
        return generation

    def generate_batch(
        self, prompts: Sequence[str | Sequence[int]], *, max_new_tokens: int | None = None, sampling: Sampling | None = None
    ) -> list[Generation]:
        """Continue several prompts at once; each gets what it would get alone."""
        rows: list[list[int]] = [[] for _ in prompts]
        for step in self._steps(prompts, max_new_tokens, sampling):
            for row, token in zip(rows, step, strict=True):
                if token is not None:
                    row.append(token)
        stop, tokenizer = self.text_model.stop, self.tokenizer
        texts = [
            tokenizer.continued(self._ids(prompt), row) if tokenizer is not None else None
            for prompt, row in zip(prompts, rows, strict=True)
        ]
        return [Generation(tuple(row), text, bool(row) and row[-1] in stop) for row, text in zip(rows, texts, strict=True)]

    @overload
    def stream(self, prompt: str, *, max_new_tokens: int | None = None, sampling: Sampling | None = None) -> Iterator[str]: ...

    @overload
    def stream(self, prompt: Sequence[int], *, max_new_tokens: int | None = None, sampling: Sampling | None = None) -> Iterator[int]: ...

    def stream(
        self, prompt: str | Sequence[int], *, max_new_tokens: int | None = None, sampling: Sampling | None = None
    ) -> Iterator[str] | Iterator[int]:
        """Continue a prompt piece by piece: whole characters for a text, ids for ids."""
        steps = self._steps([prompt], max_new_tokens, sampling)
        return self._text(self._ids(prompt), steps) if isinstance(prompt, str) else (token for (token,) in steps if token is not None)

    def save(self, path: Path | str) -> Artifact:
        """Write a copy to another place, whole or not at all, and open it."""
        place = Path(path)
        with ArtifactWriter(place) as writer:
            for name in self.folder.manifest.files:
                target = writer.folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.path / name, target)
            writer.commit(self.folder.manifest)
        return Artifact.open(place)

    def _steps(
        self, prompts: Sequence[str | Sequence[int]], max_new_tokens: int | None, sampling: Sampling | None
    ) -> Iterator[tuple[int | None, ...]]:
        rows, model = [self._ids(prompt) for prompt in prompts], self.text_model
        if isinstance(self.session, PlacedSession):
            model = replace(model, context=min(self.session.context, model.context or self.session.context))
        return generate(self.engine(), model, rows, sampling or Sampling(), max_new_tokens)

    def _ids(self, prompt: str | Sequence[int]) -> list[int]:
        return self.encode(prompt) if isinstance(prompt, str) else list(prompt)

    def _text(self, prompt: Sequence[int], steps: Iterator[tuple[int | None, ...]]) -> Iterator[str]:
        assert self.tokenizer is not None
        stream = self.tokenizer.stream(prompt)
        for (token,) in steps:
            if token is not None and (piece := stream.push(token)):
                yield piece
        if rest := stream.finish():
            yield rest
