"""A picture of numbers over the fabric, as a PNG inside the page."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgptc.backends.wafer.report.colours import heat

MOST_PIXELS = 480
"""Longer side of a picture; more PEs than that share pixels, which show the largest."""

BACKGROUND = (0.957, 0.957, 0.949)


def heat_picture(amounts: NDArray[Any]) -> str:
    """A data address of ``amounts [height, width]`` from 0 (as the empty fabric) to their largest."""
    shrunk = _shrunk(np.asarray(amounts, np.float64))
    top = max(float(shrunk.max(initial=0.0)), 1.0)
    table = np.array([heat(step / 255) for step in range(256)])
    pixels = table[np.rint(shrunk / top * 255).astype(np.int64)]
    pixels[shrunk == 0] = BACKGROUND
    return "data:image/png;base64," + base64.b64encode(_png(np.rint(pixels * 255).astype(np.uint8))).decode("ascii")


def _shrunk(amounts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Blocks of PEs by their largest amount."""
    step = -(-max(amounts.shape) // MOST_PIXELS)
    height, width = (-(-size // step) * step for size in amounts.shape)
    padded = np.zeros((height, width))
    padded[: amounts.shape[0], : amounts.shape[1]] = amounts
    return np.asarray(padded.reshape(height // step, step, width // step, step).max(axis=(1, 3)))


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """An RGB image ``[height, width, 3]`` in the PNG format (ISO/IEC 15948)."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
