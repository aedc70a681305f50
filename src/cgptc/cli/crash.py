"""What an internal error leaves behind: a file that a bug report can carry."""

from __future__ import annotations

import platform
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from cgptc.version import __version__


def write_report(error: BaseException, arguments: Sequence[str]) -> Path:
    """Write the traceback, the command and the versions to a new file in the temporary folder. Paths are cut to their last parts."""
    lines = [
        f"cgptc {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        "command: cgptc " + " ".join(_bare(argument) for argument in arguments),
        "",
        "Traceback (most recent call last):",
    ]
    for frame in traceback.extract_tb(error.__traceback__):
        lines.append(f'  "{_bare(frame.filename)}", line {frame.lineno}, in {frame.name}')
        if frame.line:
            lines.append(f"    {frame.line}")
    lines += [line.rstrip("\n") for line in traceback.format_exception_only(error)]
    with tempfile.NamedTemporaryFile("w", prefix="cgptc-crash-", suffix=".txt", delete=False, encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    return Path(file.name)


def _bare(path: str) -> str:
    """The last three parts of an absolute path, so that no home folder enters a report."""
    parts = Path(path).parts
    return str(Path(*parts[-3:])) if path.startswith("/") and len(parts) > 3 else path
