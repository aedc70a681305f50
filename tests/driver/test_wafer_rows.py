"""What is shown of a wafer plan's linear layers."""

from __future__ import annotations

from cgptc.cli.wafer_rows import sparsity_rows

LINEAR = {"where": "h.0.mlp", "layers": 3, "k": 64, "n": 32, "grid": "4x2", "kernel": "blocks 16x16", "density": 0.25}


def test_the_densities_below_which_sparse_kernels_win_are_told_for_one_token_and_many() -> None:
    won = {"decode": {"rows": 0.0, "blocks 16x16": 0.875}, "prefill": {"rows": 0.5, "blocks 16x16": 0.9}}
    header, row = sparsity_rows({"linears": [{**LINEAR, **won}]})
    assert len(header) == len(row)
    assert row[:5] == ("h.0.mlp and 2 more", "64 x 32", "4x2", "25.0%", "blocks 16x16")
    assert row[5:] == ("blocks 16x16 below 87.5%", "rows below 50.0%, blocks 16x16 below 90.0%")
    (_, never) = sparsity_rows({"linears": [{**LINEAR, "decode": {"rows": 0.0}, "prefill": {}}]})
    assert never[5:] == ("never", "never")
    assert sparsity_rows({}) == []
