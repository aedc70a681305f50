"""Stages as actors on Ray: a Ray that is started on this machine, or a cluster by its address.

Plain actors, one per stage and without restarts. Values go from actor to actor through Ray's object store; this process sees handles of
them and the model's own outputs. Every stage is asked for a sign of life about once a second, and has four to give it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgptc.backends.registry import StagedBackend, backend
from cgptc.ir.diagnostics import CgptcError, UsageError
from cgptc.ir.stage_plan import StagePlan
from cgptc.runtime.stage_engine import Finished
from cgptc.runtime.stage_worker import Call, Message, StageError, StageWorker

ASK_SECONDS, PATIENCE_SECONDS = 0.75, 3.75
"""How long after an answer a stage is asked again, and how long it may take to answer: together less than five seconds."""
START_SECONDS = 120.0
"""How long the stages may take to load."""


@dataclass(frozen=True)
class Failure:
    """An error inside an actor, in words: exceptions of libraries need not survive the way."""

    code: str
    what: str


class StageActor:
    """A stage in a process of its own."""

    def __init__(self, folder: str, target: str, options: object, index: int, plan: StagePlan) -> None:
        found = backend(target)
        assert isinstance(found, StagedBackend)
        self._worker = StageWorker(index, plan, found.load_stage(Path(folder), index, options))

    def ping(self) -> int:
        """A sign of life: the process's id."""
        return os.getpid()

    def run(self, call: Call, *messages: Message) -> object:
        """What `StageWorker` gives, as one value per edge behind the outputs; a `Failure` in the place of the outputs where it fails."""
        try:
            outputs, sent = self._worker(call, messages)
        except Exception as error:
            failure = Failure(error.code, error.what) if isinstance(error, CgptcError) else Failure("stage-failed", str(error))
            return (failure, *(None for _ in self._worker.sent)) if self._worker.sent else failure
        return (outputs, *sent) if sent else outputs


class RayEngine:
    """The stages of the artifact in ``folder`` as actors. The folder must be visible under the same name wherever actors run.

    ``address`` is a cluster's; None starts a Ray on this machine, and stops it on `close`. `UsageError` where Ray is not installed or not
    to be reached, `StageError` where a stage does not load.
    """

    def __init__(self, folder: Path, target: str, options: object, plan: StagePlan, address: str | None = None) -> None:
        self._ray = _import_ray()
        self._plan = plan
        self._owns = not self._ray.is_initialized()
        if self._owns:
            self._connect(address)
        actor = self._ray.remote(num_cpus=0, max_concurrency=2, max_restarts=0)(StageActor)
        self.actors = [actor.remote(str(folder.resolve()), target, options, index, plan) for index in range(len(plan.stages))]
        self._running: dict[Any, tuple[int, tuple[object, ...]]] = {}
        self._asked: dict[int, tuple[Any, float]] = {}
        self._answered = [0.0] * len(self.actors)
        try:
            self._await_loading()
        except BaseException:
            self.close()
            raise

    def submit(self, stage: int, call: Call, messages: Sequence[object]) -> None:
        count = 1 + len(self._plan.sent(stage))
        found = self.actors[stage].run.options(num_returns=count).remote(call, *messages)
        outputs, *sent = found if count > 1 else [found]
        self._running[outputs] = stage, tuple(sent)

    def wait(self) -> Finished:
        while True:
            ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=0.25)
            if ready:
                stage, sent = self._running.pop(ready[0])
                outputs = self._get(stage, ready[0])
                if isinstance(outputs, Failure):
                    raise StageError(outputs.code, stage, f"failed: {outputs.what}")
                assert isinstance(outputs, Mapping)
                return Finished(stage, outputs, sent)
            self._ask()

    def abandon(self) -> None:
        self.close()

    def close(self) -> None:
        for actor in self.actors:
            self._ray.kill(actor, no_restart=True)
        self.actors = []
        self._running = {}
        if self._owns and self._ray.is_initialized():
            self._ray.shutdown()

    def _connect(self, address: str | None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing of ours is reported to anyone
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            if address is None:
                self._ray.init(address="local", include_dashboard=False, **quiet)
            else:
                self._ray.init(address=address, **quiet)
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            where = f"at '{address}'" if address is not None else "on this machine"
            raise UsageError("no-ray", f"no Ray answers {where}: {str(error).splitlines()[0]}", fix="check --ray-address") from error

    def _await_loading(self) -> None:
        for stage, actor in enumerate(self.actors):
            ping = actor.ping.remote()
            ready, _ = self._ray.wait([ping], timeout=START_SECONDS)
            if not ready:
                raise StageError("stalled-stage", stage, f"did not load in {START_SECONDS:.0f} s", fix="look at the cluster's resources")
            self._get(stage, ping)

    def _get(self, stage: int, reference: Any) -> object:
        """A value that is there; `StageError` where its actor died or could not be made."""
        try:
            value: object = self._ray.get(reference)
        except self._ray.exceptions.RayActorError as error:
            reason = next((line.strip() for line in str(error).splitlines()[::-1] if line.strip()), "no reason known")
            raise StageError("dead-stage", stage, f"died: {reason}", fix="run it again") from error
        except self._ray.exceptions.RayError as error:
            raise StageError("dead-stage", stage, f"lost a value: {str(error).splitlines()[0]}", fix="run it again") from error
        return value

    def _ask(self) -> None:
        """Ask each stage for a sign of life, and look at the answers."""
        now = time.monotonic()
        for stage, actor in enumerate(self.actors):
            if stage not in self._asked:
                if now - self._answered[stage] >= ASK_SECONDS:
                    self._asked[stage] = actor.ping.remote(), now
                continue
            ping, since = self._asked[stage]
            ready, _ = self._ray.wait([ping], timeout=0)
            if ready:
                self._get(stage, ping)
                del self._asked[stage]
                self._answered[stage] = now
            elif now - since >= PATIENCE_SECONDS:
                what = f"gives no sign of life since {now - since:.1f} s"
                raise StageError("stalled-stage", stage, what, fix="look at its process, then run it again")


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise UsageError("no-ray", "Ray is not installed", fix="pip install 'cgptc[ray]', or take --engine local") from None
    return ray
