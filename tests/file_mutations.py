"""Damage to files: edits that Hypothesis draws, and their application to bytes."""

from __future__ import annotations

import struct

from hypothesis import strategies as st

BOUNDARIES = [0, 1, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 32, (1 << 62) + 1, (1 << 64) - 1]
KINDS = ("flip", "set", "insert", "delete", "repeat", "move", "truncate", "boundary", "digits")
# Headers are at either end: half of the positions are within 300 bytes of one.
POSITIONS = st.one_of(st.integers(0, 300), st.integers(-300, -1), st.integers(0, 20_000))
Edits = list[tuple[str, int, int, bytes]]
EDITS = st.lists(
    st.tuples(st.sampled_from(KINDS), POSITIONS, st.integers(0, 1000), st.binary(min_size=1, max_size=12)), min_size=1, max_size=4
)


def mutate(data: bytes, edits: Edits) -> bytes:
    """Apply edits one after another; positions wrap around."""
    result = bytearray(data)
    for kind, position, amount, extra in edits:
        start = position % (len(result) + 1)
        count = 1 + amount % 64
        match kind:
            case "flip" if start < len(result):
                result[start] ^= 1 << amount % 8
            case "set":
                result[start : start + len(extra)] = extra
            case "insert":
                result[start:start] = extra
            case "delete":
                del result[start : start + count]
            case "repeat":
                result[start:start] = result[start : start + count] * (1 + amount % 5)
            case "move":
                result[start:start] = result[amount % (len(result) + 1) :][:count]
            case "truncate":
                del result[start:]
            case "boundary":
                number = struct.pack("<Q", BOUNDARIES[amount % len(BOUNDARIES)])[: (1, 2, 4, 8)[amount % 4]]
                result[start : start + len(number)] = number
            case "digits":
                result[start : start + 1] = str(BOUNDARIES[amount % len(BOUNDARIES)]).encode()
    return bytes(result)
