"""Reads the value of a pickle without ever importing or calling what it names.

A small interpreter of the pickle instructions of protocols 2 to 5. A global is looked up in the table of the caller,
whose functions build plain descriptions; anything else becomes a `Foreign`, inert whatever the pickle does with it, and
its name is reported, so that the caller can refuse the file and say what is in it. Instructions: the comments of
CPython's ``pickletools``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, cast

from cgptc.frontend.readers.input_file import InputFile
from cgptc.frontend.readers.limits import HEADER_BYTES, PICKLE_OPCODES, PICKLE_STACK
from cgptc.ir.diagnostics import MalformedError

Known: TypeAlias = Callable[..., object]
"""What a known global does with its arguments; raises `PickleError` or TypeError for wrong ones."""

_WINDOW_BYTES = 1 << 16
_INTEGER_BYTES = 255
_TEXT_BYTES = 1 << 20


class PickleError(Exception):
    """The pickle is no valid one, or holds what no state dict does."""


@dataclass(frozen=True)
class Global:
    """A known global, named but not called."""

    name: str


@dataclass(frozen=True, eq=False)
class Foreign:
    """An unknown global, or anything made by one."""

    name: str


@dataclass(frozen=True)
class Unpickled:
    """A pickle's value, the offset after it, and the unknown globals in it in order of appearance."""

    value: object
    end: int
    foreign: tuple[str, ...]


class _Mark:
    pass


_MARK = _Mark()


class _Cursor:
    """Sequential bytes of a file between two offsets, a window at a time."""

    def __init__(self, file: InputFile, start: int, stop: int) -> None:
        self._file = file
        self._next = start
        self._stop = stop
        self._window = b""
        self._position = 0

    @property
    def offset(self) -> int:
        return self._next - len(self._window) + self._position

    def byte(self) -> int:
        if self._position == len(self._window):
            self._fill(1)
        self._position += 1
        return self._window[self._position - 1]

    def take(self, size: int) -> bytes:
        end = self._position + size
        if end > len(self._window):
            self._fill(size)
            end = self._position + size
        result = self._window[self._position : end]
        self._position = end
        return result

    def line(self) -> bytes:
        """Up to the next newline, which is consumed and not returned."""
        collected = b""
        while len(collected) <= _TEXT_BYTES:
            end = self._window.find(b"\n", self._position)
            if end >= 0:
                collected += self._window[self._position : end]
                self._position = end + 1
                return collected
            collected += self._window[self._position :]
            self._position = len(self._window)
            self._fill(1)
        raise PickleError("a name is too long")

    def _fill(self, size: int) -> None:
        rest = self._window[self._position :]
        wanted = min(max(size - len(rest), _WINDOW_BYTES), self._stop - self._next)
        if len(rest) + wanted < size:
            raise PickleError("it is cut short")
        self._window = rest + self._file.read(self._next, wanted)
        self._next += wanted
        self._position = 0


def read_pickle(
    file: InputFile,
    start: int,
    stop: int,
    known: Mapping[str, object],
    persistent: Callable[[object], object],
) -> Unpickled:
    """The value of the pickle at ``start``, which ends before ``stop``.

    ``known`` maps the full names of accepted globals to values, or to functions for those that are called.
    ``persistent`` gives the value of a persistent id. Raises `MalformedError`, or what these raise.
    """
    cursor = _Cursor(file, start, min(stop, start + HEADER_BYTES))
    machine = _Machine(cursor, known, persistent)
    try:
        value = machine.run()
    except (PickleError, TypeError, UnicodeDecodeError) as error:
        match error:
            case PickleError():
                reason = str(error)
            case UnicodeDecodeError():
                reason = "text in it is not UTF-8"
            case _:
                reason = "a tensor or container is described with wrong arguments"
        failure = MalformedError(
            "malformed-pickle",
            f"the pickle is damaged at byte {cursor.offset}: {reason}",
            file=file.label,
            fix="write the file again with torch.save(model.state_dict(), …)",
        )
        if not machine.foreign:
            raise failure from None
        # What it names matters more than how it goes on.
        value = Foreign(next(iter(machine.foreign)))
    return Unpickled(value, cursor.offset, tuple(machine.foreign))


class _Machine:
    """The stack machine. Values are plain ones, what ``known`` and ``persistent`` give, `Global`s and `Foreign`s."""

    def __init__(self, cursor: _Cursor, known: Mapping[str, object], persistent: Callable[[object], object]) -> None:
        self._cursor = cursor
        self._known = known
        self._persistent = persistent
        self._stack: list[object] = []
        self._marks: list[int] = []
        self._memo: dict[int, object] = {}
        self.foreign: dict[str, None] = {}

    def run(self) -> object:
        cursor, stack, steps = self._cursor, self._stack, _STEPS
        for _ in range(PICKLE_OPCODES):
            code = cursor.byte()
            if code == _STOP:
                if len(stack) != 1 or self._marks:
                    raise PickleError("it does not end with one value")
                return stack[0]
            step = steps.get(code)
            if step is None:
                raise PickleError(f"instruction 0x{code:02x} does not occur in a state dict")
            step(self)
            if len(stack) > PICKLE_STACK:
                raise PickleError(f"it stacks more than {PICKLE_STACK} values")
        raise PickleError(f"it has more than {PICKLE_OPCODES} instructions")

    def push(self, value: object) -> None:
        self._stack.append(value)

    def pop(self) -> object:
        if not self._stack or (self._marks and self._marks[-1] == len(self._stack)):
            raise PickleError("it takes a value where there is none")
        return self._stack.pop()

    def top(self) -> object:
        value = self.pop()
        self._stack.append(value)
        return value

    def mark(self) -> None:
        self._marks.append(len(self._stack))
        if len(self._marks) > PICKLE_STACK:
            raise PickleError(f"it stacks more than {PICKLE_STACK} marks")

    def pop_to_mark(self) -> list[object]:
        if not self._marks:
            raise PickleError("it takes values up to a mark that is not there")
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def take(self, size: int) -> bytes:
        return self._cursor.take(size)

    def number(self, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(self._cursor.take(size), "little", signed=signed)

    def text(self, size: int) -> str:
        return self._cursor.take(size).decode("utf-8")

    def long(self, size: int) -> None:
        if size > _INTEGER_BYTES:
            raise PickleError(f"a number has {size} bytes")
        self.push(self.number(size, signed=True))

    def remember(self, index: int) -> None:
        self._memo[index] = self.top()

    def recall(self, index: int) -> None:
        if index not in self._memo:
            raise PickleError("it refers to a value that is not there")
        self.push(self._memo[index])

    def memo_size(self) -> int:
        return len(self._memo)

    def find(self, module: str, name: str) -> None:
        full_name = f"{module}.{name}"
        if full_name not in self._known:
            self.add_foreign(full_name)
            return
        value = self._known[full_name]
        self.push(Global(full_name) if callable(value) else value)

    def add_foreign(self, name: str) -> None:
        self.foreign.setdefault(name)
        self.push(Foreign(name))

    def find_line(self) -> None:
        module, name = self._cursor.line().decode("utf-8"), self._cursor.line().decode("utf-8")
        self.find(module, name)

    def find_stacked(self) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise PickleError("a global's name is not text")
        self.find(module, name)

    def instance(self) -> None:
        """Protocol 0's instance: a class by name, arguments on the stack. No state dict has one, whatever the class."""
        module, name = self._cursor.line().decode("utf-8"), self._cursor.line().decode("utf-8")
        self.pop_to_mark()
        self.add_foreign(f"{module}.{name}")

    def old_instance(self) -> None:
        """Protocol 1's instance: a class and its arguments on the stack."""
        values = self.pop_to_mark()
        if not values or not isinstance(values[0], Foreign):
            raise PickleError("it makes an instance of what is no class")
        self.push(values[0])

    def extension(self, size: int) -> None:
        self.add_foreign(f"copyreg extension {self.number(size)}")

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        if isinstance(function, Foreign):
            self.push(function)
        elif isinstance(function, Global) and isinstance(arguments, tuple):
            self.push(cast(Known, self._known[function.name])(*arguments))
        else:
            raise PickleError("it calls what is no function")

    def make(self, argument_count: int) -> None:
        for _ in range(argument_count):
            self.pop()
        made = self.pop()
        if not isinstance(made, Foreign):
            raise PickleError("it makes an instance of what is no class")
        self.push(made)

    def set_state(self) -> None:
        """Attributes: those of a dictionary (a state dict's ``_metadata``) are not needed, and nothing else has any."""
        self.pop()
        target = self.top()
        if not isinstance(target, dict | Foreign):
            raise PickleError("it sets attributes of what has none")

    def append(self, values: list[object]) -> None:
        target = self.top()
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, Foreign):
            raise PickleError("it appends to what is no list")

    def add(self, values: list[object]) -> None:
        target = self.top()
        if isinstance(target, set):
            target.update(map(_key, values))
        elif not isinstance(target, Foreign):
            raise PickleError("it adds to what is no set")

    def set_items(self, values: list[object]) -> None:
        target = self.top()
        if len(values) % 2:
            raise PickleError("a key has no value")
        if isinstance(target, dict):
            for key, value in zip(values[::2], values[1::2], strict=True):
                target[_key(key)] = value
        elif not isinstance(target, Foreign):
            raise PickleError("it sets items of what is no dictionary")

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def stack_tuple(self, size: int) -> None:
        start = len(self._stack) - size
        if start < (self._marks[-1] if self._marks else 0):
            raise PickleError("it takes a value where there is none")
        values = tuple(self._stack[start:])
        del self._stack[start:]
        self._stack.append(values)

    def persistent(self) -> None:
        self.push(self._persistent(self.pop()))

    def duplicate(self) -> None:
        self.push(self.top())

    def drop(self) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self.pop()

    def protocol(self) -> None:
        version = self.number(1)
        if version > 5:
            raise PickleError(f"protocol {version} does not exist")

    def make_frozenset(self) -> None:
        self.push(frozenset(map(_key, self.pop_to_mark())))


def _key(value: object) -> str | int | float | bytes | Foreign | tuple[object, ...] | None:
    """A dictionary's key: hashing nested tuples would take time exponential in the pickle's size."""
    if isinstance(value, str | int | float | bytes | Foreign) or value is None:
        return value
    if isinstance(value, tuple) and all(isinstance(part, str | int | float | bytes) for part in value):
        return value
    raise PickleError("a dictionary's key is neither text nor a number")


def _binary_float(machine: _Machine) -> None:
    machine.push(struct.unpack(">d", machine.take(8))[0])


_STOP = ord(".")
_STEPS: dict[int, Callable[[_Machine], object]] = {
    0x80: _Machine.protocol,
    0x95: lambda machine: machine.take(8),
    ord("("): _Machine.mark,
    ord("0"): _Machine.drop,
    ord("1"): _Machine.pop_to_mark,
    ord("2"): _Machine.duplicate,
    ord("N"): lambda machine: machine.push(None),
    0x88: lambda machine: machine.push(True),
    0x89: lambda machine: machine.push(False),
    ord("J"): lambda machine: machine.push(machine.number(4, signed=True)),
    ord("K"): lambda machine: machine.push(machine.number(1)),
    ord("M"): lambda machine: machine.push(machine.number(2)),
    0x8A: lambda machine: machine.long(machine.number(1)),
    0x8B: lambda machine: machine.long(machine.number(4)),
    ord("G"): _binary_float,
    ord("X"): lambda machine: machine.push(machine.text(machine.number(4))),
    0x8C: lambda machine: machine.push(machine.text(machine.number(1))),
    0x8D: lambda machine: machine.push(machine.text(machine.number(8))),
    ord("U"): lambda machine: machine.push(machine.text(machine.number(1))),
    ord("T"): lambda machine: machine.push(machine.text(machine.number(4))),
    ord("B"): lambda machine: machine.push(machine.take(machine.number(4))),
    ord("C"): lambda machine: machine.push(machine.take(machine.number(1))),
    0x8E: lambda machine: machine.push(machine.take(machine.number(8))),
    0x96: lambda machine: machine.push(machine.take(machine.number(8))),
    ord("]"): lambda machine: machine.push([]),
    ord("a"): lambda machine: machine.append([machine.pop()]),
    ord("e"): lambda machine: machine.append(machine.pop_to_mark()),
    ord("l"): lambda machine: machine.push(machine.pop_to_mark()),
    ord(")"): lambda machine: machine.push(()),
    ord("t"): lambda machine: machine.push(tuple(machine.pop_to_mark())),
    0x85: lambda machine: machine.stack_tuple(1),
    0x86: lambda machine: machine.stack_tuple(2),
    0x87: lambda machine: machine.stack_tuple(3),
    ord("}"): lambda machine: machine.push({}),
    ord("s"): _Machine.set_item,
    ord("u"): lambda machine: machine.set_items(machine.pop_to_mark()),
    0x8F: lambda machine: machine.push(set()),
    0x90: lambda machine: machine.add(machine.pop_to_mark()),
    0x91: _Machine.make_frozenset,
    ord("q"): lambda machine: machine.remember(machine.number(1)),
    ord("r"): lambda machine: machine.remember(machine.number(4)),
    0x94: lambda machine: machine.remember(machine.memo_size()),
    ord("h"): lambda machine: machine.recall(machine.number(1)),
    ord("j"): lambda machine: machine.recall(machine.number(4)),
    ord("c"): _Machine.find_line,
    0x93: _Machine.find_stacked,
    ord("i"): _Machine.instance,
    ord("o"): _Machine.old_instance,
    0x82: lambda machine: machine.extension(1),
    0x83: lambda machine: machine.extension(2),
    0x84: lambda machine: machine.extension(4),
    ord("R"): _Machine.call,
    0x81: lambda machine: machine.make(1),
    0x92: lambda machine: machine.make(2),
    ord("b"): _Machine.set_state,
    ord("Q"): _Machine.persistent,
}
