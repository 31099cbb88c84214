"""A pickle, read without executing it: what it says of plain values and tensors, and stand-ins for all else.

No class or function that a pickle names is looked up, imported or called, so whatever a training loop saved beside the
weights (histories, arrays of numpy, whole objects) is passed over. A walk allocates in proportion to the pickle, whose
size is bounded, and never what it claims.
"""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pickletools import OpcodeInfo, genops
from typing import Any

_MAX_OPCODES = 2_000_000  # HRNet-W48 needs 62,000; with the moments of Adam about 200,000
_MAX_STACK = 60_000  # values that wait for their container: a pickler fills it after 1,000 items; tuples are whole
_MAX_PICKLE = 256 << 20  # bytes of one pickle: mmengine keeps the history of every loss
_MAX_STRING = 64 << 20  # bytes of one text: a million values of numpy take 16 MiB
_MAX_LINE = 256  # bytes of a module's or class's name
_MAX_DIMS = 16

_CONTAINERS = ("collections OrderedDict", "collections defaultdict")
_TENSOR_CALL = "torch._utils _rebuild_tensor_v2"
_PARAMETER_CALLS = ("torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state")
_TYPED_CALL = "torch._tensor _rebuild_from_type_v2"  # of a tensor with attributes
_PLAIN_TYPES = ("torch.nn.parameter Parameter", "torch Tensor", "torch._tensor Tensor")
_ITEM_SIZES = {
    **dict.fromkeys(("Bool", "Byte", "Char", "QInt8", "QUInt8", "QUInt4x2", "QUInt2x4", "Untyped"), 1),
    **dict.fromkeys(("Short", "Half", "BFloat16"), 2),
    **dict.fromkeys(("Int", "Float", "QInt32"), 4),
    **dict.fromkeys(("Long", "Double", "ComplexFloat"), 8),
    "ComplexDouble": 16,
}
_SCALARS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_LITERALS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Refusal(Exception):  # noqa: N818 - a finding, which gate.py turns into an error
    """Why a file is refused; `unsafe` tells what weights never need from mere damage."""

    def __init__(self, found: str, *, unsafe: bool = False) -> None:
        super().__init__(found)
        self.unsafe = unsafe


@dataclass(frozen=True, slots=True)
class Storage:
    """A flat array that tensors view: `numel` values of a `kind`, under a `key` in the file."""

    kind: str
    key: str
    numel: int

    @property
    def size(self) -> int:
        """Bytes of the data."""
        return self.numel * _ITEM_SIZES[self.kind]


@dataclass(frozen=True, slots=True)
class Array:
    """A tensor as a pickle describes it; only whole numbers, not yet known to be sensible."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def is_within(self) -> bool:
        """Whether it has no more values than its storage and lies inside it."""
        numbers, sides = (self.offset, *self.shape, *self.strides), self.shape
        if len(sides) != len(self.strides) or len(sides) > _MAX_DIMS or min(numbers) < 0 or max(numbers) >> 62:
            return False
        if 0 in sides:  # torch multiplies the other sides all the same
            return self.offset <= self.storage.numel and math.prod(filter(None, sides)) < 1 << 62
        last = self.offset + sum((side - 1) * stride for side, stride in zip(sides, self.strides, strict=True))
        return math.prod(sides) <= self.storage.numel and last < self.storage.numel


@dataclass(slots=True, eq=False, repr=False)  # whose state may be as deep as the file is long
class Foreign:
    """Stands for an object that is not made: `name` is what would have made it, `state` what it would have held."""

    name: str
    state: object = None

    @property
    def is_module(self) -> bool:
        """Whether it is a `torch.nn.Module`."""
        return isinstance(self.state, dict) and {"_modules", "_parameters"} <= self.state.keys()


class Stream(io.BytesIO):
    """The bytes of a file (shared, not copied), of which no opcode can take more than a checkpoint needs."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read at most 64 MiB at once."""
        if size is None or not 0 <= size <= _MAX_STRING:
            raise Refusal(f"a text of {size} bytes at byte {self.tell()}; the limit is {_MAX_STRING}", unsafe=True)
        return super().read(size)

    def readline(self, size: int | None = -1, /) -> bytes:
        """Read a line as short as the name of a class, without escapes, which genops would decode."""
        line = super().readline(_MAX_LINE)
        if b"\\" in line or (len(line) == _MAX_LINE and not line.endswith(b"\n")):
            raise Refusal(f"no name of a module or class at byte {self.tell() - len(line)}", unsafe=True)
        return line


def walk(stream: Stream, storages: dict[str, Storage], fields: int = 0) -> object:
    """Read one pickle up to its end and return what it describes.

    Numbers, texts, lists, tuples and dictionaries come as they are, ordered dictionaries as plain ones; tensors as
    `Array`, everything else as `Foreign`. `storages` receives every storage that is mentioned by key, each declared by
    a tuple of `fields` items; where `fields` is 0 no storage is allowed.

    Raises:
        Refusal: the pickle is broken, or larger than that of any checkpoint.

    """
    start = position = stream.tell()
    stack, marks, memo = list[Any](), list[list[Any]](), dict[int, Any]()
    steps: Iterator[tuple[OpcodeInfo, Any, Any]] = genops(stream)
    try:
        for count, (opcode, arg, position) in enumerate(steps):
            op = opcode.name
            if count > _MAX_OPCODES or len(stack) > _MAX_STACK or position - start > _MAX_PICKLE:
                raise Refusal("a pickle far larger than a checkpoint needs", unsafe=True)
            if (op == "PROTO") != (count == 0) or (op == "PROTO" and not 2 <= arg <= 5):
                raise Refusal(f"a pickle of another protocol than 2 to 5, at byte {position}")
            if op in ("BINPUT", "LONG_BINPUT"):
                memo[arg] = stack[-1]
            elif op == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif op in ("BINGET", "LONG_BINGET"):
                stack.append(memo[arg])
            elif op in _SCALARS:
                stack.append(arg)
            elif op in _LITERALS:
                stack.append(_LITERALS[op])
            elif op == "EMPTY_LIST":
                stack.append([])
            elif op == "EMPTY_DICT":
                stack.append({})
            elif op == "EMPTY_SET":
                stack.append(Foreign("set"))
            elif op == "MARK":
                marks.append(stack)
                stack = []
            elif op in ("TUPLE", "APPENDS", "SETITEMS", "ADDITEMS", "FROZENSET", "POP_MARK"):
                items, stack = stack, marks.pop()
                if op == "TUPLE":
                    stack.append(tuple(items))
                elif op == "FROZENSET":
                    stack.append(Foreign("frozenset"))
                elif op != "POP_MARK":
                    _put(stack[-1], op, items)
            elif op in _TUPLES:
                stack.append(tuple([stack.pop() for _ in range(_TUPLES[op])][::-1]))
            elif op in ("APPEND", "SETITEM"):
                items = [stack.pop() for _ in range(1 + (op == "SETITEM"))][::-1]
                _put(stack[-1], op, items)
            elif op == "POP":  # of a tuple that holds itself
                if stack:
                    stack.pop()
                else:
                    stack = marks.pop()
            elif op == "GLOBAL":
                stack.append(_Global(arg))
            elif op == "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                if type(name) is not str or type(module) is not str or len(name) + len(module) > _MAX_LINE:
                    raise Refusal(f"no name of a module or class at byte {position}", unsafe=True)
                stack.append(_Global(f"{module} {name}"))
            elif op in ("REDUCE", "NEWOBJ", "NEWOBJ_EX"):
                args = stack.pop() if op != "NEWOBJ_EX" else (stack.pop(), stack.pop())
                stack[-1] = _call(stack[-1], args) if op == "REDUCE" else Foreign(_name(stack[-1]))
            elif op == "BUILD":  # of what has no attributes here: the `_metadata` of a state dict, for one
                state = stack.pop()
                if isinstance(stack[-1], Foreign):
                    stack[-1].state = state
            elif op == "BINPERSID" and fields:
                stack.append(_declare(stack.pop(), fields, storages))
            elif op not in ("PROTO", "FRAME", "STOP"):
                raise Refusal(f"the operation {op} at byte {position}, which no checkpoint needs", unsafe=True)
        (result,) = stack
        if marks:
            raise IndexError
    except (ValueError, IndexError, KeyError):  # of genops, the stack and the memo
        if not stream.read(1):
            raise Refusal(f"a file that breaks off in the middle of its description, at byte {stream.tell()}") from None
        raise Refusal(f"a broken pickle, at byte {position}") from None
    return result


def show(name: str) -> str:
    """Quote a name from a file so that it can neither flood nor steer a terminal."""
    return ascii(name if len(name) <= 80 else name[:77] + "...")


@dataclass(frozen=True, slots=True)
class _Global:
    """A class or function by its name, "module name"."""

    name: str


def _name(function: object) -> str:
    return function.name.replace(" ", ".") if isinstance(function, _Global) else "something"


def _put(target: object, op: str, items: list[Any]) -> None:
    """Put items into the container that waits for them; nothing goes into an object that is not made."""
    if isinstance(target, Foreign):
        return
    if type(target) is list and op.startswith("APPEND"):
        target.extend(items)
    elif type(target) is dict and op.startswith("SETITEM"):
        if len(items) % 2:
            raise Refusal("a dictionary key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Others may hash for hours; and no file means two values by one name.
            plain = type(key) is str or (type(key) is int and not abs(key) >> 63)
            if plain and key in target:
                raise Refusal(f"the dictionary key {show(str(key))} twice")
            target[key if plain else Foreign("a key")] = value
    else:
        raise Refusal(f"the operation {op} on something else than a list or dictionary", unsafe=True)


def _call(function: object, args: object) -> object:
    """Return what a call would have made: an empty dictionary, a tensor's description, or a stand-in."""
    name = function.name if isinstance(function, _Global) else ""
    if isinstance(args, tuple):
        if name in _CONTAINERS and (not args or name != _CONTAINERS[0]):
            return {}
        if name in _PARAMETER_CALLS and args and isinstance(args[0], Array):
            return args[0]
        if name == _TYPED_CALL and len(args) == 4 and _is_plain_type(args[1]):
            return _call(args[0], args[2]) if _is_plain_call(args[0]) else Foreign(_name(function))
        if name == _TENSOR_CALL and len(args) == 6:
            storage, offset, shape, strides = args[:4]
            if isinstance(storage, Storage) and type(shape) is tuple and type(strides) is tuple:
                numbers = offset, *shape, *strides
                if {*map(type, numbers)} == {int}:
                    return Array(storage, offset, shape, strides)
    return Foreign(_name(function))


def _is_plain_type(kind: object) -> bool:
    return isinstance(kind, _Global) and kind.name in _PLAIN_TYPES


def _is_plain_call(function: object) -> bool:
    return isinstance(function, _Global) and function.name in (_TENSOR_CALL, *_PARAMETER_CALLS)


def _declare(entry: object, fields: int, storages: dict[str, Storage]) -> Storage | Foreign:
    """Note one storage: ("storage", type, key, location, number of values), and None in the legacy format."""
    if not isinstance(entry, tuple) or not entry or entry[0] != "storage":
        return Foreign("a reference")  # to a module's source, which torch once saved with whole models
    if len(entry) != fields:
        raise Refusal("a storage of unknown type or impossible size", unsafe=True)
    _, kind, key, location, numel, *view = entry
    module, _, title = kind.name.partition(" ") if isinstance(kind, _Global) else ("", "", "")
    known = module in ("torch", "torch.storage") and title.removesuffix("Storage") in _ITEM_SIZES
    if not known or not title.endswith("Storage") or type(key) is not str or type(location) is not str:
        raise Refusal("a storage of unknown type or impossible size", unsafe=True)
    if type(numel) is not int or numel < 0 or numel >> 62 or view not in ([], [None]):
        raise Refusal("a storage of unknown type or impossible size", unsafe=True)
    storage = Storage(title.removesuffix("Storage"), key, numel)
    if storages.setdefault(key, storage) != storage:
        raise Refusal("one storage declared with two types or sizes", unsafe=True)
    return storage
