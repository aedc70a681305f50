"""Ctrl-C and SIGTERM: unwind, clean up, and be gone within a second even where the main thread is deep in foreign code."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

from cgptc.artifact.writer import remove_staging

_GRACE_SECONDS = 0.7
"""How long the main thread has to unwind before the watcher cleans up and leaves."""

_TRIES = 14
"""How often in that time the signal is sent again, so that the main thread unwinds as soon as it leaves PyTorch."""


class Interrupted(BaseException):
    """A signal asked the process to stop. ``number`` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def exit_code(self) -> int:
        return 128 + self.number


_TELLING_SECONDS = 0.2
"""How long the watcher waits for the main thread to have said why it stops."""

_RECEIVED: list[int] = []
"""The signal that asked this process to stop, once one did."""

_TELLING = threading.Lock()
_TOLD = threading.Event()
"""The main thread and the watcher may both come to the end: one of them says why."""


def stopped() -> Interrupted | None:
    """What `handle_signals` raised, if it did: libraries that catch everything may have made an error of their own of it."""
    return Interrupted(_RECEIVED[0]) if _RECEIVED else None


def handle_signals() -> None:
    """Make SIGINT and SIGTERM raise `Interrupted` in the main thread. Python runs handlers between bytecodes only, so a thread
    watches too: it forces the exit where the main thread is inside a long call of a library, or of PyTorch at all."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _raise)
    threading.Thread(target=_watch, args=(reading,), name="signals", daemon=True).start()


def _raise(number: int, frame: FrameType | None) -> None:
    # A library that catches the interruption would log a traceback of it, and Python would print one where it comes in a destructor.
    logging.disable()
    sys.unraisablehook = lambda unraisable: None
    _RECEIVED.append(number)
    if _within_torch(frame):
        return  # the watcher sends it again
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)  # a second Ctrl-C must not break the clean-up
    raise Interrupted(_RECEIVED[0])


def _within_torch(frame: FrameType | None) -> bool:
    """Whether PyTorch is at work. No exception may pass its C++, which would abort the process."""
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] == "torch":
            return True
        frame = frame.f_back
    return False


def _watch(reading: int) -> None:
    number = os.read(reading, 1)[0]
    for _ in range(_TRIES):
        threading.Event().wait(_GRACE_SECONDS / _TRIES)
        os.kill(os.getpid(), number)
    remove_staging()
    with contextlib.suppress(OSError):
        tell_once(Interrupted(number), lambda text: os.write(2, f"{text}\n".encode()))
    os._exit(128 + number)


def tell_once(error: Interrupted, say: Callable[[str], object]) -> None:
    """Say what stopped the process, unless it was said. Where the other thread is saying it to a reader that does not read, give up."""
    if not _TELLING.acquire(timeout=_TELLING_SECONDS):
        return
    try:
        if not _TOLD.is_set():
            say(f"error[interrupted]: stopped by {error}: nothing was left behind")
            _TOLD.set()
    finally:
        _TELLING.release()
