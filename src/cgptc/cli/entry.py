"""From ``argv`` to an exit code. Every failure is one line on stderr; only ``--debug`` shows a traceback."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import typer

from cgptc.artifact.writer import remove_staging
from cgptc.cli import commands
from cgptc.cli.command import app
from cgptc.cli.crash import write_report
from cgptc.cli.screen import ReaderLeftError, error_text
from cgptc.cli.signals import Interrupted, handle_signals, stopped, tell_once
from cgptc.cli.usage import CLICK_USAGE_ERROR, from_click
from cgptc.ir.diagnostics import CgptcError, Exit, FileError
from cgptc.ir.printable import printable

commands.register()


def run(arguments: Sequence[str]) -> int:
    """Run one command; gives the exit code and never raises, signals included."""
    debug = "--debug" in arguments
    try:
        return _run(arguments)
    except Interrupted as error:
        return _interrupted(error)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except ReaderLeftError:
        # What is still buffered must not fail when the interpreter flushes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except Exception as error:
        # PyTorch catches whatever a traced function raises, an interruption too, and raises something else.
        interruption = stopped()
        return _interrupted(interruption) if interruption is not None else _failed(error, arguments, debug)


def _interrupted(error: Interrupted) -> int:
    remove_staging()  # where it came between a folder and the block that removes it
    tell_once(error, _say)
    return error.exit_code


def _failed(error: Exception, arguments: Sequence[str], debug: bool) -> int:
    """Tell what failed; gives the exit code."""
    match error:
        case CgptcError():
            return _fail(error, debug)
        case OSError():
            where = str(error.filename or "")
            return _fail(FileError("io", (error.strerror or str(error)).lower(), file=where, fix="check the file and try again"), debug)
        case MemoryError():
            return _fail(FileError("memory", "out of memory", fix="use a smaller model or a machine with more memory"), debug, error)
        case _:
            return _crashed(error, arguments, debug)


def _crashed(error: Exception, arguments: Sequence[str], debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    what = printable(f"{type(error).__name__}: {error}")[:300]
    try:
        where = str(write_report(error, arguments))
    except OSError:
        where = "nowhere: the temporary folder cannot be written"
    notes = "".join(f" ({printable(note)} runs it again)" for note in getattr(error, "__notes__", ()))
    _say(f"error[internal]: a bug in cgptc: {what}: report it with the file written to {where}{notes}")
    return Exit.INTERNAL


def _run(arguments: Sequence[str]) -> int:
    command = typer.main.get_command(app)
    try:
        code = command.main(list(arguments), prog_name="cgptc", standalone_mode=False)
    except CLICK_USAGE_ERROR as error:
        raise from_click(error) from None
    return code if isinstance(code, int) else Exit.OK


def _fail(error: CgptcError, debug: bool, cause: BaseException | None = None) -> int:
    if debug:
        traceback.print_exception(cause or error)
    _say(error_text(error))
    return error.exit


def _say(text: str) -> None:
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except OSError:
        pass  # nobody is listening; the exit code still tells


def main() -> int:
    """The console script; gives the exit code."""
    try:
        handle_signals()
        return int(run(sys.argv[1:]))
    except Interrupted as error:
        return _interrupted(error)
