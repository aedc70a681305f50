"""From what a user names to a captured model."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cgptc.artifact.canonical import Json
from cgptc.driver.companions import find_tokenizer, stop_tokens
from cgptc.driver.model import Model, TextFacts
from cgptc.driver.options import CompileOptions
from cgptc.frontend.gpt_checkpoint import CheckpointGpt
from cgptc.frontend.gpt_config import Head
from cgptc.frontend.presets import preset
from cgptc.frontend.readers import JsonObject, open_checkpoint
from cgptc.frontend.readers.input_file import InputFile
from cgptc.frontend.readers.plain_json import read_json_object
from cgptc.ir.diagnostics import UsageError, Warnings


@dataclass(frozen=True)
class Source:
    """What to open: a file or folder, and what the user says about it.

    ``preset`` and ``config`` (a JSON file) say what the weights are where the file does not; ``tokenizer`` is a file or folder.
    """

    path: Path
    preset: str | None = None
    config: Path | None = None
    tokenizer: Path | None = None

    def __post_init__(self) -> None:
        if self.preset is not None and self.config is not None:
            raise UsageError("usage", "--preset and --config exclude each other", fix="give one of them")


class OpenedSource:
    """A model whose files are open: a context manager, since weights are read while the artifact is written."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._stack = ExitStack()

    def __enter__(self) -> OpenedSource:
        source = self.source
        self.warnings = Warnings()
        checkpoint = self._stack.enter_context(open_checkpoint(source.path))
        try:
            self.gpt = CheckpointGpt.of(
                checkpoint,
                str(source.path),
                config=_read_config(source.config),
                preset=preset(source.preset) if source.preset is not None else None,
                warnings=self.warnings,
            )
        except BaseException:
            self._stack.close()
            raise
        for note in checkpoint.notes:
            self.warnings.add("input", note)
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def capture(self, options: CompileOptions, *, with_mask: bool) -> Model:
        """Capture the graph with the sizes that the options ask for, and gather what belongs to it."""
        config, checkpoint = self.gpt.recognised.config, self.gpt.checkpoint
        companions = find_tokenizer(self.source.path, self.source.tokenizer)
        text = None
        if config.head is not Head.NONE:
            stop = stop_tokens(self.source.path, checkpoint.config, config.vocabulary)
            text = TextFacts(config.vocabulary, config.positions, stop)
        facts: dict[str, Json] = {
            "architecture": self.gpt.recognised.naming,
            "layers": config.layers,
            "width": config.width,
            "heads": config.heads,
            "vocabulary": config.vocabulary,
            "positions": config.positions,
            "parameters": config.parameter_count,
            "dtype": str(self.gpt.dtype),
        }
        return Model(
            self.gpt.capture(options.dynamic, options.fixed, with_mask=with_mask),
            "Gpt",
            input={"kind": checkpoint.format, "sha256": checkpoint.digest()},
            facts=facts,
            text=text,
            companions=companions,
            warnings=tuple(self.warnings.lines),
        )


def _read_config(path: Path | None) -> JsonObject | None:
    if path is None:
        return None
    with InputFile(path) as file:
        return read_json_object(file, "the configuration")
