"""``cgptc run``: feed an artifact, or generate with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from cgptc.cli.command import command
from cgptc.cli.screen import Screen, table
from cgptc.driver.options import require_choice
from cgptc.ir.diagnostics import UsageError
from cgptc.runtime.compiled import Artifact
from cgptc.runtime.engine import SessionWithNotes
from cgptc.runtime.sampler import Sampling

FIDELITIES = ("fast", "pe")


@command("run")
def run(
    screen: Screen,
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="An artifact folder.")],
    inputs: Annotated[Path | None, typer.Option("--inputs", help="Arrays by name, in an .npz file.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where to write the outputs, as .npz.")] = None,
    prompt: Annotated[list[str] | None, typer.Option("--prompt", help="Text to continue; more than once for a batch.")] = None,
    prompt_ids: Annotated[
        list[str] | None, typer.Option("--prompt-ids", help="Token ids to continue, such as 1,2,3; more than once for a batch.")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens", help="How many tokens to make (64).")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="0 takes the likeliest token.")] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", help="Sample among the k likeliest tokens.")] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", help="Sample among the likeliest tokens that reach probability p.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of the samples.")] = None,
    engine: Annotated[str | None, typer.Option("--engine", help="stages: local (threads here) or ray (actors).")] = None,
    ray_address: Annotated[str | None, typer.Option("--ray-address", help="An existing Ray cluster's address.")] = None,
    micro_batches: Annotated[int | None, typer.Option("--micro-batches", help="stages: parts of a batch (one per stage).")] = None,
    fidelity: Annotated[str | None, typer.Option("--fidelity", help="wafer: fast, or pe: every PE by itself, with the same bits.")] = None,
) -> None:
    """Run an artifact on arrays, or continue a text or token ids with it."""
    texts, ids = prompt or [], [parse_ids(text) for text in prompt_ids or []]
    given = [name for name, value in (("--inputs", inputs), ("--prompt", prompt), ("--prompt-ids", prompt_ids)) if value]
    if len(given) != 1:
        what = f"{' and '.join(given)} exclude each other" if given else "nothing to run on"
        raise UsageError("usage", what, file=str(artifact), fix="give one of --inputs, --prompt and --prompt-ids")
    if inputs is not None:
        if any(value is not None for value in (max_new_tokens, temperature, top_k, top_p, seed)):
            raise UsageError("usage", "generation options need a prompt", fix="give --prompt or --prompt-ids, or drop them")
        if output is None:
            raise UsageError("missing-argument", "nowhere to write the outputs", fix="give -o out.npz")
        with _opened(artifact, engine, ray_address, micro_batches, fidelity) as model:
            _run_on_arrays(screen, model, inputs, output)
        return
    if output is not None:
        raise UsageError("usage", "-o is for the outputs of --inputs", fix="drop it: generated text goes to stdout")
    sampling = Sampling.of(temperature, top_k, top_p, seed)
    prompts: list[str] | list[list[int]] = texts or ids
    with _opened(artifact, engine, ray_address, micro_batches, fidelity) as model:
        _generate(screen, model, prompts, max_new_tokens, sampling)


@contextmanager
def _opened(path: Path, engine: str | None, address: str | None, micro_batches: int | None, fidelity: str | None) -> Iterator[Artifact]:
    if fidelity is not None:
        require_choice("--fidelity", fidelity, FIDELITIES)
    artifact = Artifact.open(path)
    artifact.fidelity = fidelity
    if address is not None and engine != "ray":
        raise UsageError("usage", "--ray-address is for --engine ray", fix="add --engine ray, or drop it")
    if engine is None and micro_batches is None:
        yield artifact
        return
    with artifact.running_on(engine or "local", address=address, micro_batches=micro_batches) as running:
        yield running


def _tell_notes(screen: Screen, artifact: Artifact) -> None:
    """Say what the runs would have taken on a machine that is modelled, or where onnxruntime placed the nodes."""
    if isinstance(artifact.session, SessionWithNotes):
        for line in artifact.session.notes():
            screen.note(line)


def parse_ids(text: str) -> list[int]:
    """``1,2,3`` as numbers. `UsageError` where it is something else."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError("bad-value", f"--prompt-ids '{text}' is not a list of numbers", fix="write them as 1,2,3") from None


def _run_on_arrays(screen: Screen, artifact: Artifact, source: Path, place: Path) -> None:
    from cgptc.driver.arrays import read_arrays, write_arrays

    outputs = artifact.run(read_arrays(source))
    write_arrays(place, outputs)
    rows = [(name, str(array.dtype), str(list(array.shape))) for name, array in outputs.items()]
    value = {name: {"dtype": str(array.dtype), "shape": list(array.shape)} for name, array in outputs.items()}
    _tell_notes(screen, artifact)
    screen.result(table(rows), value)


def _generate(
    screen: Screen, artifact: Artifact, prompts: list[str] | list[list[int]], max_new_tokens: int | None, sampling: Sampling
) -> None:
    first = prompts[0]
    if len(prompts) == 1 and isinstance(first, str) and not screen.json:
        pieces = artifact.stream(first, max_new_tokens=max_new_tokens, sampling=sampling)  # raises before anything is printed
        screen.stream(first)
        for piece in pieces:
            screen.stream(piece)
        screen.stream("\n")
        _tell_notes(screen, artifact)
        return
    rows = artifact.generate_batch(prompts, max_new_tokens=max_new_tokens, sampling=sampling)
    _tell_notes(screen, artifact)
    lines = []
    for prompt, row in zip(prompts, rows, strict=True):
        lines.append(prompt + (row.text or "") if isinstance(prompt, str) else ",".join(map(str, row.ids)))
    screen.result("\n".join(lines), [{"ids": list(row.ids), "text": row.text, "ended": row.ended} for row in rows])
