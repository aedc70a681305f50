"""Compiled multiply-accumulate over a whole region, bit-identical to `instructions.gemm`'s array form.

Region buffers are ``[elements, rows, columns]``, so that the innermost loop runs along a row of PEs. For every PE and every
output element the products are added in ascending k, each rounded as the format says; no order depends on the shape of the region.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from cgptc.backends.wafer.arithmetic.formats import Array, Format
from cgptc.backends.wafer.arithmetic.threads import in_threads

Strided = tuple[int, int, int]
"""Offset, and stride of the first and of the second axis, in elements of a buffer."""


# numba widens the result of every 32-bit integer operation, hence the casts.
@njit(cache=True)
def _round_half(x):  # type: ignore[no-untyped-def]
    bits = np.float32(x).view(np.uint32)
    size = np.uint32(bits & np.uint32(0x7FFFFFFF))
    sign = np.uint32(bits & np.uint32(0x80000000))
    odd = np.uint32((size >> np.uint32(13)) & np.uint32(1))
    kept = np.uint32(np.uint32(size + np.uint32(0xFFF) + odd) & np.uint32(0xFFFFE000))
    normal = np.uint32(0x7F800000) if kept >= np.uint32(0x47800000) else kept
    # Below 2**-14 halves are multiples of 2**-24, which is the spacing of float32 next to 1/2.
    small = np.float32(np.float32(size.view(np.float32) + np.float32(0.5)) - np.float32(0.5)).view(np.uint32)
    finite = small if size < np.uint32(0x38800000) else normal
    rounded = np.uint32(0x7FC00000) if size > np.uint32(0x7F800000) else finite
    return np.uint32(rounded | sign).view(np.float32)


@njit(cache=True)
def _round_brain(x):  # type: ignore[no-untyped-def]
    bits = np.float32(x).view(np.uint32)
    odd = np.uint32((bits >> np.uint32(16)) & np.uint32(1))
    kept = np.uint32(np.uint32(bits + np.uint32(0x7FFF) + odd) & np.uint32(0xFFFF0000))
    rounded = np.uint32(0x7FC00000) if np.uint32(bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000) else kept
    return np.uint32(rounded).view(np.float32)


@njit(cache=True, nogil=True)
def _gemm_plain(total, left, right, at_total, at_left, at_right, m_size, k_size, n_size, rows, columns):  # type: ignore[no-untyped-def]
    first, last = columns
    for row in range(rows[0], rows[1], rows[2]):
        left_row = row if left.shape[1] > 1 else 0
        right_row = row if right.shape[1] > 1 else 0
        for n in range(n_size):
            for m in range(m_size):
                t = total[at_total[0] + m * at_total[1] + n * at_total[2], row, first:last]
                for k in range(k_size):
                    a = left[at_left[0] + m * at_left[1] + k * at_left[2], left_row]
                    b = right[at_right[0] + k * at_right[1] + n * at_right[2], right_row]
                    if len(a) == 1:
                        same = a[0]
                        b = b[first:last] if len(b) > 1 else b
                        for pe in range(len(t)):
                            t[pe] = t[pe] + same * b[pe]
                    elif len(b) == 1:
                        same = b[0]
                        a = a[first:last]
                        for pe in range(len(t)):
                            t[pe] = t[pe] + a[pe] * same
                    else:
                        a = a[first:last]
                        b = b[first:last]
                        for pe in range(len(t)):
                            t[pe] = t[pe] + a[pe] * b[pe]


@njit(cache=True, nogil=True)
def _gemm_half(total, left, right, at_total, at_left, at_right, m_size, k_size, n_size, rows, columns):  # type: ignore[no-untyped-def]
    first, last = columns
    for row in range(rows[0], rows[1], rows[2]):
        left_row = row if left.shape[1] > 1 else 0
        right_row = row if right.shape[1] > 1 else 0
        for n in range(n_size):
            for m in range(m_size):
                t = total[at_total[0] + m * at_total[1] + n * at_total[2], row, first:last]
                for k in range(k_size):
                    a = left[at_left[0] + m * at_left[1] + k * at_left[2], left_row]
                    b = right[at_right[0] + k * at_right[1] + n * at_right[2], right_row]
                    if len(a) == 1:
                        same = a[0]
                        b = b[first:last] if len(b) > 1 else b
                        for pe in range(len(t)):
                            t[pe] = _round_half(t[pe] + _round_half(same * b[pe]))
                    elif len(b) == 1:
                        same = b[0]
                        a = a[first:last]
                        for pe in range(len(t)):
                            t[pe] = _round_half(t[pe] + _round_half(a[pe] * same))
                    else:
                        a = a[first:last]
                        b = b[first:last]
                        for pe in range(len(t)):
                            t[pe] = _round_half(t[pe] + _round_half(a[pe] * b[pe]))


@njit(cache=True, nogil=True)
def _gemm_brain(total, left, right, at_total, at_left, at_right, m_size, k_size, n_size, rows, columns):  # type: ignore[no-untyped-def]
    first, last = columns
    for row in range(rows[0], rows[1], rows[2]):
        left_row = row if left.shape[1] > 1 else 0
        right_row = row if right.shape[1] > 1 else 0
        for n in range(n_size):
            for m in range(m_size):
                t = total[at_total[0] + m * at_total[1] + n * at_total[2], row, first:last]
                for k in range(k_size):
                    a = left[at_left[0] + m * at_left[1] + k * at_left[2], left_row]
                    b = right[at_right[0] + k * at_right[1] + n * at_right[2], right_row]
                    if len(a) == 1:
                        same = a[0]
                        b = b[first:last] if len(b) > 1 else b
                        for pe in range(len(t)):
                            t[pe] = _round_brain(t[pe] + _round_brain(same * b[pe]))
                    elif len(b) == 1:
                        same = b[0]
                        a = a[first:last]
                        for pe in range(len(t)):
                            t[pe] = _round_brain(t[pe] + _round_brain(a[pe] * same))
                    else:
                        a = a[first:last]
                        b = b[first:last]
                        for pe in range(len(t)):
                            t[pe] = _round_brain(t[pe] + _round_brain(a[pe] * b[pe]))


_KERNELS = {"none": _gemm_plain, "half": _gemm_half, "brain": _gemm_brain}

WORTH_A_THREAD = 1 << 20
"""Multiply-accumulates that take much longer than a thread's start."""


def gemm_planes(
    target: Format,
    total: Array,
    left: Array,
    right: Array,
    places: tuple[Strided, Strided, Strided],
    sizes: tuple[int, int, int],
    rows: tuple[int, int, int],
    columns: tuple[int, int],
) -> None:
    """``total += left @ right`` in every PE of the given rows (start, stop, step) and columns (start, stop) of a region.

    The three buffers are ``[elements, rows, columns]`` of the target's carrier type, C-contiguous; ``left`` and ``right`` may have one row
    or column that stands for all. ``places`` says where in them the matrices lie, ``sizes`` is (m, k, n). ``total`` must not overlap them.
    Rows of PEs are divided among the processor's cores where that pays; no PE's bits depend on it.
    """
    kernel = _KERNELS[target.rounding]
    lines = range(*rows)
    work = math.prod(sizes) * len(lines) * (columns[1] - columns[0])

    def part(share: range) -> None:
        kernel(total, left, right, *places, *sizes, (share.start, share.stop, share.step), columns)

    in_threads(part, lines, work // WORTH_A_THREAD)
