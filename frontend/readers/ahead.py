"""A result that is computed beside other work."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """What ``compute`` gives, begun now in a thread of its own: for work that leaves the interpreter free, such as hashing a file.

    The thread keeps no process alive: where the caller fails first, nobody waits for it.
    """

    def __init__(self, compute: Callable[[], T]) -> None:
        self._compute = compute
        self._found: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="ahead", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._found.append(self._compute())
        except BaseException as error:  # raised again where the result is asked for
            self._error = error

    def result(self) -> T:
        """Wait for it; raises what ``compute`` raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._found[0]
