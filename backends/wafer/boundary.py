"""Where wafer errors become the errors that a user reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cgptc.backends.wafer.faults import ExecutionError, MachineError, WaferError
from cgptc.backends.wafer.plan.choose import DoesNotFitError
from cgptc.ir.diagnostics import CompileError, Exit, MalformedError, UsageError


@contextmanager
def planning() -> Iterator[None]:
    """A wrong machine is exit 2, no room on a right one exit 6, and what cannot be laid out exit 5."""
    try:
        yield
    except MachineError as error:
        raise UsageError(error.code, error.what, fix=error.fix) from None
    except DoesNotFitError as error:
        raise CompileError(error.code, error.what, exit=Exit.DOES_NOT_FIT, fix=error.fix, details=error.lines) from None
    except WaferError as error:
        raise CompileError(error.code, error.what, fix=error.fix) from None


@contextmanager
def loading(file: str) -> Iterator[None]:
    """Files that hold no program, or one that breaks its machine's rules, or that are not there, are exit 4."""
    try:
        yield
    except FileNotFoundError as error:
        missing = f"'{Path(error.filename).name}' is missing"
        raise MalformedError("program-file", missing, file=file, fix="compile the model again") from None
    except WaferError as error:
        raise MalformedError(error.code, error.what, file=file, fix=error.fix or "compile the model again") from None


@contextmanager
def running() -> Iterator[None]:
    """What a program refuses to run on is exit 2; what a verified program never does is a bug and passes as it is."""
    try:
        yield
    except ExecutionError:
        raise
    except WaferError as error:
        raise UsageError(error.code, error.what, fix=error.fix) from None
