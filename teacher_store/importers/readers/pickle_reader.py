"""Reads pickles that somebody else wrote, without unpickling them: a small machine over their opcodes.

`pickletools.genops` decodes the stream; the machine keeps a stack of plain data. It imports nothing that the stream
names and calls nothing but the constructors that its caller allows, by module and name; everything else is refused, by
its name. So no byte of a file can run code. Nor can it cost more than a small multiple of its own size, in memory or
time: opcodes are counted, what constructors copy is charged to a budget (one array may be named a million times), and
keys are flat (hashing a tuple of tuples of tuples takes a time exponential in its depth).
"""

import pickletools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Final, TypeGuard, TypeVar

from upcycle.errors import CorruptDataError
from upcycle.narrowing import is_dict, is_list, is_sequence, is_set, is_tuple

_Kind = TypeVar("_Kind")

Construct = Callable[[tuple[object, ...]], object]
"""Stands in for a class or function of the stream: gets the arguments, returns plain data or a `Pending`."""

Allowed = Mapping[tuple[str, str], Construct]
"""Constructors by (module, name)."""

_DAMAGE: Final = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError),
    *(OverflowError, MemoryError, RecursionError, Warning),
)
_MAX_DEPTH: Final = 64
_MAX_OPCODES: Final = 5_000_000  # Dopamine keeps the return of every episode of 200 iterations
_FREE_COPIES: Final = 1 << 16
_COPIES_PER_BYTE: Final = 4  # a byte is text, then bytes, then part of an array


class Pending(ABC):
    """An object whose state comes after it (opcode BUILD)."""

    def set_state(self, state: object) -> None:
        """Takes the state. Raises CorruptDataError if it is none of its kind."""
        raise CorruptDataError(f"a pickled {type(self).__name__} with a state")

    @abstractmethod
    def finish(self) -> object:
        """The plain value."""


@dataclass(frozen=True, slots=True)
class Global:
    """A class or function that the stream names; it is only ever compared."""

    module: str
    name: str


class _Mark:
    pass


def read_pickle(
    data: bytes, allowed: Allowed, *, where: str, persistent: Callable[[object], object] | None = None
) -> tuple[object, int]:
    """The value that a pickle describes, as dicts, lists, tuples, sets, scalars, bytes and NumPy arrays.

    Args:
      data: begins with a pickle; bytes after its end are left alone.
      allowed: what the stream may construct; everything else is refused.
      where: names the file in errors.
      persistent: resolves persistent ids; None refuses them.
    Returns: the value, and how many bytes the pickle has.
    Raises: CorruptDataError if the stream is damaged, or names a class or function that is not allowed.
    """
    machine = _Machine(allowed, persistent, budget=_FREE_COPIES + _COPIES_PER_BYTE * len(data))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of escapes that no pickler writes
            return _run(machine, data)
    except CorruptDataError as error:
        raise CorruptDataError(f"{where}: refused: {error}") from error
    except _DAMAGE as error:
        raise CorruptDataError(f"{where}: damaged pickle ({type(error).__name__}: {str(error)[:200]})") from error


def _run(machine: "_Machine", data: bytes) -> tuple[object, int]:
    for count, (opcode, argument, position) in enumerate(pickletools.genops(data)):
        if count > _MAX_OPCODES:
            raise CorruptDataError(f"more than {_MAX_OPCODES:,} opcodes")
        if opcode.name == "STOP" and position is not None:
            return _finished(machine.pop(), {}, 0), position + 1
        machine.step(opcode.name, argument)
    raise CorruptDataError("it has no end")


class _Machine:
    def __init__(self, allowed: Allowed, persistent: Callable[[object], object] | None, *, budget: int) -> None:
        self._allowed, self._persistent, self._budget = allowed, persistent, budget
        self.stack: list[object] = []
        self._memo: dict[int, object] = {}

    def pop(self) -> object:
        value = self.stack.pop()
        if isinstance(value, _Mark):
            raise CorruptDataError("a mark where a value belongs")
        return value

    def pop_to_mark(self) -> list[object]:
        for place in range(len(self.stack) - 1, -1, -1):
            if isinstance(self.stack[place], _Mark):
                values = self.stack[place + 1 :]
                del self.stack[place:]
                return values
        raise CorruptDataError("a mark is missing")

    def step(self, name: str, argument: object) -> None:
        """Carries out one opcode other than STOP."""
        if name in ("PROTO", "FRAME"):
            return
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in ("PUT", "BINPUT", "LONG_BINPUT") and isinstance(argument, int):
            self._memo[argument] = self.stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET") and isinstance(argument, int):
            self.stack.append(self._memo[argument])
        elif name == "GLOBAL" and isinstance(argument, str):
            self.push_global(*argument.split(" ", 1))
        elif name == "PERSID":
            self.resolve(argument)
        elif name in _OPERATIONS:
            _OPERATIONS[name](self)
        else:
            raise CorruptDataError(f"it uses the opcode {name}")

    def append(self) -> None:
        value = self.pop()
        self.top(is_list, "list").append(value)

    def extend(self) -> None:
        values = self.pop_to_mark()
        self.top(is_list, "list").extend(values)

    def add_items(self) -> None:
        values = self.pop_to_mark()
        self.top(is_set, "set").update(map(flat_key, values))

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.top(is_dict, "dict")[flat_key(key)] = value

    def set_items(self) -> None:
        values = self.pop_to_mark()
        self.top(is_dict, "dict").update(_pairs(values))

    def top(self, fits: Callable[[object], TypeGuard[_Kind]], kind: str) -> _Kind:
        top = self.stack[-1]
        if not fits(top):
            raise CorruptDataError(f"a {type(top).__name__} where a {kind} belongs")
        return top

    def tuple_of(self, length: int) -> None:
        values = [self.pop() for _ in range(length)]
        self.stack.append(tuple(reversed(values)))

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise CorruptDataError("a global whose name is no text")
        self.push_global(module, name)

    def push_global(self, module: str, name: str) -> None:
        if (module, name) not in self._allowed:
            shown = f"{module}.{name}"[:100].encode("unicode_escape").decode()
            raise CorruptDataError(f"it would construct {shown}, which no agent needs")
        self.stack.append(Global(module, name))

    def construct(self, target: object, arguments: object) -> None:
        if not isinstance(target, Global) or not is_tuple(arguments):
            raise CorruptDataError(f"it would call a {type(target).__name__}")
        self.charge(arguments)
        self.stack.append(self._allowed[target.module, target.name](arguments))

    def charge(self, value: object, depth: int = 3) -> None:
        """Takes what a constructor may copy of `value` from the budget."""
        if _is_sized(value):
            self._budget -= len(value)
            if self._budget < 0:
                raise CorruptDataError("its objects would take many times the memory of the file")
            if depth and is_sequence(value):
                for item in value:
                    self.charge(item, depth - 1)

    def reduce(self) -> None:
        arguments, target = self.pop(), self.pop()
        self.construct(target, arguments)

    def new_with_keywords(self) -> None:
        keywords, arguments, target = self.pop(), self.pop(), self.pop()
        if keywords:
            raise CorruptDataError("it constructs with keyword arguments")
        self.construct(target, arguments)

    def build(self) -> None:
        state, top = self.pop(), self.stack[-1]
        self.charge(state)
        if isinstance(top, Pending):
            top.set_state(state)
        elif not isinstance(top, dict):  # one with a state is an OrderedDict: its attributes, as torch's _metadata
            raise CorruptDataError(f"a {type(top).__name__} with a state")

    def resolve(self, identity: object) -> None:
        if self._persistent is None:
            raise CorruptDataError("it refers to objects outside of it")
        self.stack.append(self._persistent(identity))


_SIZED: Final = (str, bytes, bytearray, tuple, list, dict, set, frozenset)
_COLLECTIONS: Final[dict[type, Callable[[list[object]], object]]] = {
    list: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
}
_SCALARS: Final = (str, bytes, int, float, type(None), Global)

_LITERALS: Final = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
    | {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
    | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
)
_CONSTANTS: Final[dict[str, Callable[[], object]]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
    "MARK": _Mark,
}
_OPERATIONS: Final[dict[str, Callable[[_Machine], object]]] = {
    "POP": lambda machine: machine.stack.pop(),
    "POP_MARK": _Machine.pop_to_mark,
    "DUP": lambda machine: machine.stack.append(machine.stack[-1]),
    "APPEND": _Machine.append,
    "APPENDS": _Machine.extend,
    "ADDITEMS": _Machine.add_items,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "LIST": lambda machine: machine.stack.append(machine.pop_to_mark()),
    "TUPLE": lambda machine: machine.stack.append(tuple(machine.pop_to_mark())),
    "DICT": lambda machine: machine.stack.append(dict(_pairs(machine.pop_to_mark()))),
    "FROZENSET": lambda machine: machine.stack.append(frozenset[object](map(flat_key, machine.pop_to_mark()))),
    "TUPLE1": lambda machine: machine.tuple_of(1),
    "TUPLE2": lambda machine: machine.tuple_of(2),
    "TUPLE3": lambda machine: machine.tuple_of(3),
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.reduce,
    "NEWOBJ_EX": _Machine.new_with_keywords,
    "BUILD": _Machine.build,
    "BINPERSID": lambda machine: machine.resolve(machine.pop()),
}


def _is_sized(value: object) -> TypeGuard[Sized]:
    return isinstance(value, _SIZED)


def _is_collection(value: object) -> TypeGuard[Collection[object]]:
    return type(value) in _COLLECTIONS


def _pairs(values: list[object]) -> Iterator[tuple[object, object]]:
    if len(values) % 2:
        raise CorruptDataError("a key without a value")
    return zip(map(flat_key, values[::2]), values[1::2], strict=True)


def flat_key(value: object) -> object:
    """`value`, if it can be a key at a cost that does not depend on what it holds: a scalar, or a flat tuple."""
    parts = value if is_tuple(value) else (value,)
    if not all(isinstance(part, _SCALARS) for part in parts):
        raise CorruptDataError(f"a {type(value).__name__} as a key")
    return value


def _finished(value: object, done: dict[int, object], depth: int) -> object:
    """`value` with every `Pending` finished; each object once, however often it is referred to."""
    if depth > _MAX_DEPTH:
        raise CorruptDataError(f"nested deeper than {_MAX_DEPTH}, or in itself")
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, Pending):
        result = value.finish()
    elif isinstance(value, Global):
        result = f"{value.module}.{value.name}"
    elif is_dict(value):
        result = {_finished(key, done, depth + 1): _finished(item, done, depth + 1) for key, item in value.items()}
    elif _is_collection(value):
        result = _COLLECTIONS[type(value)]([_finished(item, done, depth + 1) for item in value])
    else:
        return value
    done[id(value)] = result
    return result
