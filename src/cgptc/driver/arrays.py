"""Arrays by name in ``.npz`` files, read without executing anything."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cgptc.ir.diagnostics import FileError, MalformedError
from cgptc.ir.op import Array

_EPOCH = (1980, 1, 1, 0, 0, 0)


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays of an ``.npz``. `FileError` where it cannot be read, `MalformedError` where it is something else or holds objects."""
    shown = str(path)
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.lib.npyio.NpzFile):
            with archive:
                found = {name: archive[name] for name in archive.files}
            # numpy gives the bytes of a member that does not begin like an array.
            other = next((name for name, array in found.items() if not isinstance(array, np.ndarray)), None)
            if other is None:
                return found
            raise MalformedError("not-npz", f"holds {other!r}, which is no array", file=shown, fix="write it with numpy.savez")
    except MalformedError:
        raise
    except OSError as error:
        raise FileError("read", (error.strerror or str(error)).lower(), file=shown, fix="give an .npz file") from error
    except Exception as error:  # what zipfile, its decompressors and numpy raise of damaged bytes is no closed set
        reason = " ".join(str(error).split())[:200]
        raise MalformedError("not-npz", f"is not an .npz file: {reason}", file=shown, fix="write it with numpy.savez") from error
    raise MalformedError("not-npz", "holds one array, not arrays by name", file=shown, fix="write it with numpy.savez")


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write an ``.npz`` whole or not at all; equal arrays give equal bytes. Raises `FileError`.

    Element types that numpy's format lacks (bf16) are written as float32, which holds them exactly.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, array in arrays.items():
                content = io.BytesIO()
                plain = array if array.dtype.kind in "iufb" else array.astype(np.float32)
                np.lib.format.write_array(content, np.asarray(plain, order="C"), allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{name}.npy", _EPOCH), content.getvalue())
        partial.replace(path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise FileError("write", f"writing failed: {reason}", file=str(path), fix="choose another place with -o") from error
    finally:
        partial.unlink(missing_ok=True)
