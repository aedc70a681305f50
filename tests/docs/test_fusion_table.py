"""The table of fusions in docs/ is what its script writes; nothing in it is in pieces."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.fusion_table import FAMILIES, HEAD, PAGE, row
from tests.frontend.hf_configurations import CONFIGS

CHEAP = "PyTorch, attention and norms written out"
"""The family that is captured again in every run: on transformers' own attention the frontend leaves less to fuse."""

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_page_has_every_family_once() -> None:
    names = re.findall(r"^\| ([^|]+) \| \d", TEXT, re.MULTILINE)
    assert names == [family.name for family in FAMILIES]
    assert TEXT.startswith(HEAD)
    assert len(names) >= len(CONFIGS) + 4


def test_attention_norms_and_rotations_are_whole_in_every_layer_of_every_family() -> None:
    cells = re.findall(r"(\d+) / (\d+)", TEXT)
    assert len(cells) >= 2 * len(FAMILIES)
    assert all(fused == total for fused, total in cells)


def test_a_row_is_what_the_passes_do_today(tmp_path: Path) -> None:
    (family,) = (family for family in FAMILIES if family.name == CHEAP)
    assert row(family, tmp_path) in TEXT
