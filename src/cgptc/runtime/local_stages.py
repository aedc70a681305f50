"""Stages in this process, a thread each."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from cgptc.ir.diagnostics import CgptcError
from cgptc.runtime.stage_engine import Finished
from cgptc.runtime.stage_worker import Call, Message, StageError, StageWorker


class LocalEngine:
    """Runs each stage in a thread of its own: while numpy and onnxruntime compute, other stages go on."""

    def __init__(self, workers: Sequence[StageWorker]) -> None:
        self._workers = workers
        self._threads = [ThreadPoolExecutor(1, thread_name_prefix=f"stage-{worker.index}") for worker in workers]
        self._ended: SimpleQueue[Finished | BaseException] = SimpleQueue()
        self._under_way = 0

    def submit(self, stage: int, call: Call, messages: Sequence[object]) -> None:
        self._under_way += 1
        self._threads[stage].submit(self._work, stage, call, messages)

    def wait(self) -> Finished:
        ended = self._ended.get()
        self._under_way -= 1
        if isinstance(ended, BaseException):
            raise ended
        return ended

    def abandon(self) -> None:
        while self._under_way:
            self._ended.get()
            self._under_way -= 1

    def close(self) -> None:
        for thread in self._threads:
            thread.shutdown(wait=False, cancel_futures=True)

    def _work(self, stage: int, call: Call, messages: Sequence[object]) -> None:
        try:
            outputs, sent = self._workers[stage](call, [message for message in messages if isinstance(message, Message)])
            self._ended.put(Finished(stage, outputs, tuple(sent)))
        except CgptcError as error:
            self._ended.put(error)
        except Exception as error:  # onnxruntime raises classes of its own that have no common base
            failure = StageError("stage-failed", stage, f"failed: {error}")
            failure.__cause__ = error
            self._ended.put(failure)
