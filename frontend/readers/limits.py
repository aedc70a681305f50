"""Bounds that a model file is held to before anything is allocated for what it says about itself."""

from __future__ import annotations

HEADER_BYTES = 100_000_000
"""Header, index, pickle or JSON of one file."""

TENSOR_COUNT = 1_000_000
"""Tensors in one file or folder."""

RANK = 8
"""Dimensions of one tensor."""

ELEMENT_COUNT = 1 << 62
"""Elements of one tensor, and the largest single dimension."""

JSON_DEPTH = 64
"""Nested objects and arrays of a JSON text."""

JSON_VALUES = 20_000_000
"""Values in a JSON text."""

PICKLE_OPCODES = 5_000_000
"""Instructions of one pickle; a tensor takes about 45."""

PICKLE_STACK = 100_000
"""Values, and marks, that a pickle may keep on its stack; torch writes at most some thousands."""

PLAIN_VALUES = 200_000
"""Values of a configuration found in a pickle, shared ones counted each time they occur."""

SHARD_COUNT = 4_096
"""Files that the index of one folder may name."""

REPEATED_BYTES = 16 << 20
"""Bytes of a tensor that reads its storage more than once (an expanded one)."""
