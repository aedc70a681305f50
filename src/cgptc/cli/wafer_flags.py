"""The wafer target's flags, for every command that takes them."""

from __future__ import annotations

from typing import Annotated

import typer

Machine = Annotated[str | None, typer.Option("--machine", help="wafer: wse2, wse3, small-WxH, or a TOML or JSON file.")]
Strategy = Annotated[str | None, typer.Option("--execution-strategy", help="wafer: auto, pipeline, resident or weight-streaming.")]
Objective = Annotated[str | None, typer.Option("--objective", help="wafer: throughput, latency or area.")]
GridSize = Annotated[str | None, typer.Option("--grid", help="wafer: columns x rows of every region, such as 16x16.")]
Context = Annotated[
    int | None,
    typer.Option("--context", help="wafer: the most tokens of a row; else the model's limit, up to 2048, or 128 where a row is one item."),
]
Chunk = Annotated[
    int | None, typer.Option("--prefill-chunk", help="wafer: tokens of a prompt that are read at once, 1 for one by one; else as pays.")
]
