"""``python -m cgptc`` and the ``cgptc`` script: the beginning and the end of the process."""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
from typing import NoReturn

GARBAGE_THRESHOLD = 150_000
"""New objects before a collection. With Python's 700 a seventh of PyTorch's import goes into collections that find nothing."""


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    gc.set_threshold(GARBAGE_THRESHOLD)
    from cgptc.cli.entry import main as run

    leave(run())


def leave(code: int) -> NoReturn:
    """End the process without taking PyTorch's modules apart, which takes a second or two.

    What else the interpreter does at its end is done: functions of ``atexit`` run, and the streams are flushed. Where a thread must still
    be waited for, or a stream cannot be flushed, the interpreter ends by itself.
    """
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        sys.exit(code)
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        sys.exit(code)
    os._exit(code)


if __name__ == "__main__":
    main()
