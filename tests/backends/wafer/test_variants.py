"""What decides between tile products and rows that are dealt out, as docs/adr/0013 says it."""

from __future__ import annotations

from benchmarks.wafer_variants import Case


def test_tiles_win_a_little_where_grids_are_small_for_the_width() -> None:
    assert 0.9 < Case(256, 16, 16, "f32").mlp(chunk=False).won < 1
    assert Case(768, 128, 64, "f32").mlp(chunk=False).won > 1


def test_an_attention_block_in_tiles_gains_a_few_per_cent_at_best() -> None:
    assert 0.95 < Case(256, 32, 8, "f16").attention().won < 1
    assert Case(768, 128, 64, "f16").attention().won > 1


def test_prompts_gain_nothing_by_tile_products() -> None:
    for side in (8, 16, 32):
        found = Case(256, 64, side, "f32").mlp(chunk=True)
        assert found.dealt < found.tiles < found.spread
