"""Words of the text form, and errors that say where they stand."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice
from typing import NamedTuple, NoReturn

from cgptc.ir.diagnostics import MalformedError

MAX_TEXT = 1 << 28
"""Characters that a text may have."""

_STRING = r'"[^"\\\n]*(?:\\.[^"\\\n]*)*"'
_WORDS = re.compile(
    rf"""
    (?:[ \t\r\n]++|//[^\n]*+)*+
    (?:
      (?P<mark>\.\.|[(){{}}\[\],:=*+\-@])
    | (?P<value>%(?:{_STRING}|[A-Za-z_][A-Za-z0-9_.]*|[0-9]+)(?:\#[0-9]+)?)
    | (?P<word>[A-Za-z_][A-Za-z0-9_.]*)
    | (?P<hex>0x[0-9a-f]*)
    | (?P<float>[0-9]+(?:\.[0-9]+(?:[eE][+-]?[0-9]+)?|[eE][+-]?[0-9]+))
    | (?P<int>[0-9]+)
    | (?P<string>{_STRING})
    | (?P<end>\Z)
    )
    """,
    re.VERBOSE,
)
_SPACE = re.compile(r"(?:[ \t\r\n]++|//[^\n]*+)*+")


class Token(NamedTuple):
    """``kind`` is value, word, hex, float, int, string, mark or end; ``offset`` counts characters from the start of the text."""

    kind: str
    text: str
    offset: int


class Lexer:
    """The words of a text, one ahead. Every error is a `MalformedError` that starts with ``line:column``."""

    def __init__(self, text: str, file: str = "") -> None:
        self._text = text
        self._file = file
        self._end = 0  # of the current token
        self.consumed = 0
        """Where the last token that was moved past ends."""
        self.token = Token("mark", "", 0)
        if len(text) > MAX_TEXT:
            raise self.error(f"a text of at most {MAX_TEXT} characters, got {len(text)}", at=0)
        self.advance()

    def advance(self) -> Token:
        """Move to the next token and give the current one."""
        current = self.token
        self.consumed = self._end
        match = _WORDS.match(self._text, self._end)
        if match is None:
            self._refuse_character()
        kind = match.lastgroup
        assert kind is not None
        self._end = match.end()
        self.token = Token(kind, match[kind], match.start(kind))
        return current

    def _refuse_character(self) -> NoReturn:
        space = _SPACE.match(self._text, self._end)
        assert space is not None
        raise self.error(f"unexpected character {self._text[space.end()]!r}", at=space.end())

    def through(self, mark: str) -> str:
        """The text from the current token through the next mark of one character, to the end where there is none."""
        return self._text[self.token.offset : self._text.find(mark, self.token.offset) + 1 or None]

    def between(self, start: int, stop: int) -> str:
        """The text between two offsets."""
        return self._text[start:stop]

    def skip(self, count: int) -> None:
        """Move past ``count`` characters, counted from the current token, after which a token begins."""
        self._end = self.token.offset + count
        self.advance()

    def is_mark(self, text: str) -> bool:
        return self.token.kind == "mark" and self.token.text == text

    def is_word(self, text: str) -> bool:
        return self.token.kind == "word" and self.token.text == text

    def take(self, mark: str) -> bool:
        """Move past a mark if it stands here."""
        token = self.token
        if token.text != mark or token.kind != "mark":
            return False
        self.advance()
        return True

    def expect(self, mark: str, where: str = "") -> None:
        """Move past a mark that must stand here."""
        if not self.take(mark):
            raise self.expected(f"'{mark}'{where}")

    def expect_word(self, text: str) -> None:
        if not self.is_word(text):
            raise self.expected(f"'{text}'")
        self.advance()

    def integer(self, what: str) -> int:
        """An unsigned integer below 2**63, which must stand here."""
        if self.token.kind != "int":
            raise self.expected(what)
        if len(self.token.text) > 19 or int(self.token.text) >= 1 << 63:
            raise self.error(f"{what} must be below 2**63")
        return int(self.advance().text)

    def name(self, what: str) -> str:
        """A bare word or a quoted string, which must stand here."""
        if self.token.kind == "string":
            return self.string(what)
        if self.token.kind != "word":
            raise self.expected(what)
        return self.advance().text

    def string(self, what: str) -> str:
        """A quoted string, which must stand here."""
        if self.token.kind != "string":
            raise self.expected(what)
        text = self.unquote(self.token.text)
        self.advance()
        return text

    def unquote(self, text: str) -> str:
        """The content of a string in JSON's notation, which is part of the current token."""
        try:
            content = json.loads(text)
            assert isinstance(content, str)
            content.encode()  # a lone surrogate is no text
        except (ValueError, UnicodeError) as error:
            raise self.error(f"a string in JSON's notation was expected: {error}") from None
        return content

    def expected(self, what: str) -> MalformedError:
        """The error that something else stands here."""
        got = "the end of the text" if self.token.kind == "end" else _shortened(self.token.text)
        return self.error(f"expected {what}, got {got}")

    def error(self, what: str, *, at: int | None = None, fix: str = "") -> MalformedError:
        """The error at an offset, by default at the current token."""
        offset = self.token.offset if at is None else at
        line = self._text.count("\n", 0, offset) + 1
        column = offset - (self._text.rfind("\n", 0, offset) + 1) + 1
        return MalformedError("ir-text", f"{line}:{column}: {what}", file=self._file, fix=fix)


def _shortened(text: str) -> str:
    return f"'{text}'" if len(text) <= 60 else f"'{text[:57]}…'"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint at the nearest of the first known names, "" where none is near."""
    near = get_close_matches(name[:100], list(islice(known, 1000)), n=1)
    return f"did you mean '{near[0]}'?" if near else ""
