"""Text in pieces: nothing is lost, nothing is torn."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cgptc.driver.companions import read_companions
from cgptc.ir.diagnostics import MalformedError
from cgptc.runtime.tokenizer import Tokenizer, can_read

TEXT = "起初，神创造天地。地是空虚混沌，渊面黑暗。 In the beginning God created the heaven and the earth. 😀🎉 naïve café"


@cache
def byte_level() -> Any:
    """A byte-level BPE like GPT-2's, with so few merges that most Chinese characters are several tokens."""
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, pre_tokenizers, trainers

    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    library.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet, show_progress=False))
    return library


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer({"tokenizer.json": byte_level().to_str().encode()})


@cache
def sentence_pieces() -> Tokenizer:
    """A tokenizer whose decoder strips the first token's space and falls back to bytes, as LLaMA's does."""
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models

    pieces = ["<unk>", "▁the", "▁earth", "and", "▁", "神", "s", *(f"<0x{byte:02X}>" for byte in range(256))]
    library = Library(models.BPE(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[], byte_fallback=True))
    library.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return Tokenizer({"tokenizer.json": library.to_str().encode()})


def streamed(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    stream = tokenizer.stream()
    return [*(stream.push(token) for token in ids), stream.finish()]


@given(st.text())
@example(TEXT)
def test_byte_level_text_survives_the_way_there_and_back(text: str) -> None:
    assert tokenizer().decode(tokenizer().encode(text)) == text


@given(st.text(alphabet=st.sampled_from(TEXT)))
@example(TEXT)
def test_streamed_text_is_the_text_and_no_piece_is_torn(text: str) -> None:
    pieces = streamed(tokenizer(), tokenizer().encode(text))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert pieces[-1] == ""  # nothing is kept until the end


def test_a_chinese_text_comes_in_many_pieces() -> None:
    text = "神创造天地混沌"
    ids = tokenizer().encode(text)
    assert len(ids) > len(text)  # most characters are several tokens, so something was held back
    pieces = [piece for piece in streamed(tokenizer(), ids) if piece]
    assert "".join(pieces) == text
    assert len(pieces) > 3


@given(st.lists(st.integers(0, 279), max_size=40))
def test_streaming_any_tokens_gives_what_decoding_them_together_gives(ids: list[int]) -> None:
    """A model may write any bytes: broken ones become U+FFFD, at the same places."""
    assert "".join(streamed(tokenizer(), ids)) == tokenizer().decode(ids)


@given(st.lists(st.sampled_from([1, 2, 3, 4, 5, 6]), max_size=20))
def test_streaming_keeps_the_spaces_that_a_stripping_decoder_has(ids: list[int]) -> None:
    assert "".join(streamed(sentence_pieces(), ids)) == sentence_pieces().decode(ids)


def test_bytes_of_a_fallback_become_one_character() -> None:
    ids = [1, *(7 + byte for byte in "地".encode()), 2]
    pieces = streamed(sentence_pieces(), ids)
    assert "".join(pieces) == "the地 earth"
    assert not any("\ufffd" in piece for piece in pieces)


def test_vocabulary_and_merges_read_as_the_same_tokenizer() -> None:
    model = json.loads(byte_level().to_str())["model"]
    merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in model["merges"]), ""])
    files = {"vocab.json": json.dumps(model["vocab"]).encode(), "merges.txt": merges.encode()}
    assert Tokenizer(files).encode(TEXT) == tokenizer().encode(TEXT)
    assert Tokenizer(files).decode(tokenizer().encode(TEXT)) == TEXT


def test_a_continuation_keeps_the_space_before_its_first_word() -> None:
    """Decoded alone, the first word has none in LLaMA's manner."""
    pieces = sentence_pieces()
    prompt, new = [1], [2, 3]
    assert pieces.decode(new) == "earthand"
    assert pieces.continued(prompt, new) == " earthand"
    stream = pieces.stream(prompt)
    assert [*(stream.push(token) for token in new), stream.finish()] == [" earth", "and", ""]


def test_gpt2s_own_file_names_are_known(tmp_path: Path) -> None:
    """The names of OpenAI's release; an artifact has them under the names that runtimes look for."""
    (tmp_path / "encoder.json").write_bytes(b'{"a": 0, "b": 1, "ab": 2}')
    (tmp_path / "vocab.bpe").write_bytes(b"#version: 0.2\na b\n")
    for place in (tmp_path, tmp_path / "vocab.bpe"):
        files = read_companions({}, place)
        assert Tokenizer(files).encode("aba") == [2, 0]
        assert sorted(files) == ["merges.txt", "vocab.json"]


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer.json": b""},
        {"tokenizer.json": b"{}"},
        {"tokenizer.json": b'{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}'},
        {"vocab.json": b"[]", "merges.txt": b""},
        {"vocab.json": b'{"a": "x"}', "merges.txt": b""},
        {"vocab.json": b'{"a": 1}', "merges.txt": b"a b c d\nq"},
        {"vocab.json": b'{"a": 0, "b": 1}', "merges.txt": b"a b"},
        {"vocab.json": b'{"a": 1}', "merges.txt": b"\xff\xfe"},
        {"vocab.json": b"[" * 100_000, "merges.txt": b""},
    ],
    ids=range(9),
)
def test_what_is_no_tokenizer_is_an_error_of_ours(files: dict[str, bytes]) -> None:
    with pytest.raises(MalformedError, match="tokenizer"):
        Tokenizer(files, file="model")


def test_can_read_wants_one_file_or_both_of_two() -> None:
    assert can_read(["tokenizer.json"])
    assert can_read(["merges.txt", "vocab.json"])
    assert not can_read(["vocab.json"])
