"""A trained GPT-2 from PyPI, compiled, held against PyTorch, and run on text.

microformer-mgm (MIT) carries a GPT-2 of 8 layers that was trained on the genera of microbes found in samples: a "text" is a list of
genera, most abundant first. Only its weights, configuration and vocabulary are read, and nothing of the package is executed.

    pip download --no-deps microformer-mgm==0.5.8
    python examples/trained/microformer.py microformer_mgm-0.5.8-py3-none-any.whl
    python examples/trained/microformer.py microformer_mgm-0.5.8-py3-none-any.whl placed wafer
"""

from __future__ import annotations

import json
import pickletools
import sys
import zipfile
from pathlib import Path

from cgptc.cli.entry import run

RESOURCES = "mgm/resources"
MODEL_FILES = ("config.json", "generation_config.json", "pytorch_model.bin")
PROMPT = "<bos> g__Bacteroides g__Faecalibacterium"


def unpack(wheel: Path, folder: Path) -> None:
    """The model's folder, with a ``tokenizer.json`` made of the package's vocabulary."""
    folder.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for name in MODEL_FILES:
            (folder / name).write_bytes(archive.read(f"{RESOURCES}/general_model/{name}"))
        vocabulary = read_vocabulary(archive.read(f"{RESOURCES}/MicroTokenizer.pkl"))
    special = [
        {"id": vocabulary[token], "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        | {"special": True}
        for token in ("<pad>", "<mask>", "<bos>", "<eos>")
    ]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<mask>"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def read_vocabulary(pickle: bytes) -> dict[str, int]:
    """The first run of ``token: number`` pairs from ``<pad>: 0`` on. The pickle's instructions are listed, not executed."""
    found: dict[str, int] = {}
    memory: list[object] = []
    last: object = None
    for instruction, argument, _ in pickletools.genops(pickle):
        match instruction.name:
            case "MEMOIZE":
                memory.append(last)
            case "BINGET" | "LONG_BINGET":
                last = memory[argument] if isinstance(argument, int) else None
            case "BININT1" | "BININT2" if isinstance(last, str) and isinstance(argument, int):
                if argument == len(found) and (found or last == "<pad>"):
                    found[last] = argument
                last = None
            case "FRAME":
                pass  # a frame may begin between a token and its number
            case _:
                last = argument
    return found


def main(wheel: str, place: str = "microformer", target: str = "onnx") -> int:
    """Exit code of the first command that fails, else 0."""
    folder, out = Path(place), Path(f"{place}.{target}.cgptc")
    unpack(Path(wheel), folder)
    commands = (
        ["compile", str(folder), "--target", target, "-o", str(out)],
        ["verify", str(out), "--against", str(folder)],
        ["run", str(out), "--prompt", PROMPT, "--max-new-tokens", "12"],
    )
    return next((code for command in commands if (code := run(command))), 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
