"""Putting a finished folder in the place of another, as a whole.

Where the system can exchange two names in one step (Linux ``renameat2``, macOS ``renamex_np``), a kill at any moment leaves the
old folder or the new one under the name. Elsewhere the old folder steps aside under a hidden name first; `recover` puts it back
when a kill fell between the two renames, and both the writer and the reader call it before they look.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h; RENAME_SWAP of macOS has the same value
_UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EXDEV, errno.EPERM}
_ATTEMPTS = 100

ASIDE = ".cgptc-old-"
STAGING = ".cgptc-tmp-"


def exchange(left: Path, right: Path) -> bool:
    """Swap two names in one step. False where this system or file system cannot; OSError for any other failure."""
    library = ctypes.CDLL(None, use_errno=True)
    source, target = os.fsencode(left), os.fsencode(right)
    if sys.platform == "darwin":
        function = getattr(library, "renamex_np", None)
        arguments: tuple[object, ...] = (source, target, ctypes.c_uint(_RENAME_EXCHANGE))
    else:
        function = getattr(library, "renameat2", None)
        arguments = (_AT_FDCWD, source, _AT_FDCWD, target, ctypes.c_uint(_RENAME_EXCHANGE))
    if function is None:
        return False
    if function(*arguments) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(left), None, str(right))


def replace_folder(new: Path, place: Path, token: str) -> Path | None:
    """Put the folder ``new`` at ``place``. Gives where the folder that stood there now is, None where none did.

    Safe against others who do the same at the same time: one whole folder wins.
    """
    for attempt in range(_ATTEMPTS):
        aside = place.with_name(f".{place.name}{ASIDE}{token}-{attempt}")
        try:
            new.rename(place)
            return None
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        try:
            if exchange(new, place):
                return new
            place.rename(aside)
        except FileNotFoundError:
            continue  # another process took the old folder away in between: the name is free
        try:
            new.rename(place)
            return aside
        except OSError as error:
            recover(place)
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    raise OSError(errno.EBUSY, "other processes keep writing there", str(place))


def recover(place: Path) -> None:
    """Put back a folder that stepped aside for a replacement that never came."""
    if os.path.lexists(place) or not place.parent.is_dir():
        return
    for old in sorted(place.parent.glob(f".{_escape(place.name)}{ASIDE}*")):
        if (old / "manifest.json").is_file():
            try:
                old.rename(place)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
                    raise
            return


def leftovers(place: Path) -> list[Path]:
    """Hidden folders that earlier writers of ``place`` left or that living ones use."""
    found: list[Path] = []
    for mark in (STAGING, ASIDE):
        found += place.parent.glob(f".{_escape(place.name)}{mark}*")
    return sorted(found)


def _escape(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
