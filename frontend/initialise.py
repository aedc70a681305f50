"""Random weights for a GPT, as GPT-2 starts: seeded, and the same whatever the order of reading."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from cgptc.frontend.gpt_config import GptConfig

Block = npt.NDArray[np.float32]

BLOCK_ELEMENTS = 1 << 20
"""Elements drawn at a time, so that a model of any size needs little memory."""

STANDARD_DEVIATION = 0.02
"""Of embeddings and linear weights (Radford et al. 2019); projections into the residual stream have it over sqrt(2 layers)."""


def initial_blocks(config: GptConfig, name: str, shape: tuple[int, ...], seed: int) -> Iterator[Block]:
    """The flat content of one parameter, at most `BLOCK_ELEMENTS` at a time.

    The generator's key is a hash of seed and name: a tensor's content depends on nothing else.
    """
    size = math.prod(shape)
    counts = [min(BLOCK_ELEMENTS, size - start) for start in range(0, size, BLOCK_ELEMENTS)]
    if len(shape) == 1:
        fill = 1.0 if name.endswith(".weight") else 0.0  # norm weights; every bias
        yield from (np.full(count, fill, np.float32) for count in counts)
        return
    deviation = STANDARD_DEVIATION
    if name.endswith(".c_proj.weight"):
        deviation /= math.sqrt(2 * config.layers)
    key = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:16], "little")
    generator = np.random.Generator(np.random.Philox(key=key))
    for count in counts:
        block = generator.standard_normal(count, np.float32)
        block *= np.float32(deviation)
        yield block


def initial_tensors(config: GptConfig, seed: int) -> Iterator[tuple[str, Block]]:
    """Name and content of every parameter, one whole tensor at a time."""
    for name, shape in config.parameters():
        yield name, np.concatenate(list(initial_blocks(config, name, shape, seed))).reshape(shape)
