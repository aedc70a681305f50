"""Text to token ids and back, through the ``tokenizers`` library."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cgptc.ir.diagnostics import MalformedError

TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
"""What belongs to a tokenizer in a model's folder. The first, or the second and third, are enough to read text."""


class Tokenizer:
    """A tokenizer from the bytes of its files: ``tokenizer.json``, or GPT-2's ``vocab.json`` and ``merges.txt``.

    Raises `MalformedError` where they are not such files. ``file`` is for messages.
    """

    def __init__(self, files: Mapping[str, bytes], file: str = "") -> None:
        try:
            self._tokenizer = _from_json(files["tokenizer.json"]) if "tokenizer.json" in files else _byte_level(files)
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # the library is in Rust, and its panics are no Exception
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            reason = repr(" ".join(str(error).split()))[1:-1][:200]  # the files' own characters, those for terminals escaped
            raise MalformedError("tokenizer", f"the tokenizer cannot be read: {reason}", file=file, fix="check its files") from None

    def encode(self, text: str) -> list[int]:
        """The ids of a text, with what the tokenizer itself adds, such as a beginning-of-sequence token."""
        return list(self._tokenizer.encode(text).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special tokens have none, and neither has an id beyond the vocabulary."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    @property
    def size(self) -> int:
        """Number of tokens, added ones included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def continued(self, prompt: Sequence[int], ids: Sequence[int]) -> str:
        """What ``ids`` add to the text of ``prompt``, the space between words included that some tokenizers give to no first token."""
        stream = self.stream(prompt)
        return stream.push(*ids) + stream.finish()

    def stream(self, prompt: Sequence[int] = ()) -> TextStream:
        """A decoder for ids that come one by one, after those of a prompt, whose text it does not give."""
        stream = TextStream(self)
        if prompt:
            stream.push(*prompt)
        return stream


def can_read(names: Iterable[str]) -> bool:
    """Whether files of these names make a tokenizer."""
    present = set(names)
    return "tokenizer.json" in present or {"vocab.json", "merges.txt"} <= present


class TextStream:
    """Decodes ids as they come, giving only text that later ids cannot change.

    What ends in U+FFFD may be the beginning of a character whose other bytes are still to come, so it is held back. Each piece is
    decoded together with the ids of the piece before it, since some tokenizers treat the first token of a text specially.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._context = 0  # ids at the window's start whose text was given in full
        self._given = 0  # letters of the window's text that were given

    def push(self, *ids: int) -> str:
        """The text that these ids complete, often all of theirs, sometimes none."""
        self._window += ids
        text = self._tokenizer.decode(self._window)
        ready = text.rstrip("\ufffd")
        piece = ready[self._given :]
        if len(ready) < len(text) or not piece:
            self._given = max(self._given, len(ready))
            return piece
        self._window = self._window[self._context :]
        self._context = len(self._window)
        self._given = len(self._tokenizer.decode(self._window))
        return piece

    def finish(self) -> str:
        """The text held back: characters that never became whole, each as U+FFFD."""
        text = self._tokenizer.decode(self._window)
        piece = text[self._given :]
        self._given = len(text)
        return piece


def _from_json(data: bytes) -> Any:
    from tokenizers import Tokenizer as Library

    return Library.from_buffer(data)


def _byte_level(files: Mapping[str, bytes]) -> Any:
    """GPT-2's byte-level BPE (Radford et al. 2019) from its two files."""
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, pre_tokenizers, processors

    from cgptc.artifact.canonical import parse_json

    vocabulary = parse_json(files["vocab.json"])
    if not isinstance(vocabulary, dict):
        raise ValueError("vocab.json is not an object")
    ids = {token: number for token, number in vocabulary.items() if isinstance(number, int) and 0 <= number < 1 << 32}
    if len(ids) != len(vocabulary):
        raise ValueError("vocab.json gives a token no id")
    merges: list[tuple[str, str]] = []
    for line in files["merges.txt"].decode().split("\n"):
        if not line.strip() or line.startswith("#version"):
            continue
        left, _, right = line.rstrip("\r").partition(" ")
        if not {left, right, left + right} <= ids.keys():  # the library aborts on some of these
            raise ValueError(f"merges.txt joins {left!r} and {right!r}, which vocab.json has not, or not joined")
        merges.append((left, right))
    tokenizer = Library(models.BPE(vocab=ids, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    if "<|endoftext|>" in ids:
        tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer
