"""A pickle, walked without executing it: what a state dict needs is understood, everything else refused.

Knows numbers, text, containers, ten kinds of storage and three calls; a walk allocates in proportion to the pickle,
whose size is bounded, and never what it claims.
"""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pickletools import OpcodeInfo, genops
from typing import Any

_MAX_OPCODES = 500_000  # HRNet-W48 needs 62,000; with the moments of Adam about 200,000
_MAX_STACK = 20_000  # values that wait for their container: a pickler fills it after 1,000 items; tuples are whole
_MAX_PICKLE = 32 << 20  # bytes of one pickle
_MAX_STRING = 1 << 20  # bytes of one text; the longest is the config in `meta`
_MAX_LINE = 256  # bytes of a module's or class's name
_MAX_DEPTH = 100  # containers in containers
_MAX_DIMS = 16

_ORDERED = "collections OrderedDict"
_TENSOR_CALL = "torch._utils _rebuild_tensor_v2"
_PARAMETER_CALL = "torch._utils _rebuild_parameter"
_ITEM_SIZES = {
    **dict.fromkeys(("torch BoolStorage", "torch ByteStorage", "torch CharStorage"), 1),
    **dict.fromkeys(("torch ShortStorage", "torch HalfStorage", "torch BFloat16Storage"), 2),
    **dict.fromkeys(("torch IntStorage", "torch FloatStorage"), 4),
    **dict.fromkeys(("torch LongStorage", "torch DoubleStorage"), 8),
}
_GLOBALS = {_ORDERED, _TENSOR_CALL, _PARAMETER_CALL, *_ITEM_SIZES}
_SCALARS = {"BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
_LITERALS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_TUPLE": "tuple", "EMPTY_LIST": "list", "EMPTY_DICT": "dict"}
_COUNTED = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2}
_DICTS = ("dict", "OrderedDict")
_TENSOR = object()  # stands for every tensor


class Refusal(Exception):  # noqa: N818 - a finding, which gate.py turns into an error
    """Why a file is refused; `unsafe` tells what weights never need from mere damage."""

    def __init__(self, found: str, *, unsafe: bool = False) -> None:
        super().__init__(found)
        self.unsafe = unsafe


@dataclass(frozen=True)
class Storage:
    """A flat array that tensors view: `numel` values, `size` bytes."""

    kind: str
    numel: int

    @property
    def size(self) -> int:
        """Bytes of the data."""
        return self.numel * _ITEM_SIZES[self.kind]


class Stream(io.BytesIO):
    """The bytes of a file (shared, not copied), of which no opcode can take more than weights need."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read at most 1 MiB at once."""
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
    """Walk one pickle up to its end and return what it describes, with stand-ins for all but plain values.

    A list comes as a list, a dictionary as the list of its keys and values in turn. `storages` receives the storages
    in use by key, each declared by a tuple of `fields` items; where `fields` is 0 no storage is allowed.

    Raises:
        Refusal: at the first thing that weights do not need, or that is broken.

    """
    start = position = stream.tell()
    stack, marks, memo = list[Any](), list[list[Any]](), dict[int, Any]()
    steps: Iterator[tuple[OpcodeInfo, Any, Any]] = genops(stream)
    try:
        for count, (opcode, arg, position) in enumerate(steps):
            op = opcode.name
            if count > _MAX_OPCODES or len(stack) > _MAX_STACK or position - start > _MAX_PICKLE:
                raise Refusal("a pickle far larger than weights need", unsafe=True)
            if (op == "PROTO") != (count == 0) or (op == "PROTO" and arg != 2):
                raise Refusal(f"a pickle of another protocol than torch.save's 2, at byte {position}")
            if op in ("BINPUT", "LONG_BINPUT"):
                memo[arg] = stack[-1]
            elif op in ("BINGET", "LONG_BINGET"):
                stack.append(memo[arg])
            elif op in _SCALARS:
                stack.append(arg)
            elif op in _LITERALS:
                stack.append(_LITERALS[op])
            elif op in _EMPTY:
                stack.append(_Box(_EMPTY[op]))
            elif op == "MARK":
                marks.append(stack)
                stack = []
            elif op in ("TUPLE", "APPENDS", "SETITEMS"):
                items, stack = stack, marks.pop()
                _collect(stack, op, items)
            elif op in _COUNTED:
                items = [stack.pop() for _ in range(_COUNTED[op])][::-1]
                _collect(stack, op, items)
            elif op == "GLOBAL":
                if arg not in _GLOBALS:
                    raise Refusal(f"the global {show(arg.replace(' ', '.'))} at byte {position}", unsafe=True)
                stack.append(_Global(arg))
            elif op == "REDUCE":
                args = stack.pop()
                stack[-1] = _call(stack[-1], args)
            elif op == "BUILD":
                state = stack.pop()
                _check_state(state, stack[-1])
            elif op == "BINPERSID" and fields:
                stack.append(_declare(stack.pop(), fields, storages))
            elif op not in ("PROTO", "STOP"):
                raise Refusal(f"the operation {op} at byte {position}, which weights do not need", unsafe=True)
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


@dataclass(frozen=True)
class _Global:
    name: str


class _Box(list[Any]):
    """A container of the pickle: its items, or keys and values in turn.

    It is complete once another container holds it, as it always is in what a pickler writes; so none can hold itself.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.depth, self.closed = kind, 1, False
        self.keys: set[str | int] = set()

    def put(self, items: list[Any]) -> None:
        for item in items:
            if isinstance(item, _Box):
                item.closed = True
                self.depth = max(self.depth, 1 + item.depth)
        if self.closed or self.depth > _MAX_DEPTH:
            raise Refusal("containers that hold themselves or are nested too deep", unsafe=True)
        if self.kind in _DICTS:
            for key in items[::2]:
                if type(key) is not str and (type(key) is not int or abs(key) >> 63):  # others may hash for hours
                    raise Refusal("a dictionary key that is neither text nor a whole number", unsafe=True)
                if key in self.keys:
                    raise Refusal(f"the dictionary key {show(str(key))} twice")
                self.keys.add(key)
            if len(items) % 2:
                raise Refusal("a dictionary key without a value")
        self.extend(items)


def _collect(stack: list[Any], op: str, items: list[Any]) -> None:
    """Make a tuple of `items`, or put them into the container on top of the stack."""
    if op.startswith("TUPLE"):
        stack.append(_Box("tuple"))
    elif not isinstance(stack[-1], _Box) or stack[-1].kind not in (_DICTS if op.startswith("SETITEM") else ("list",)):
        raise Refusal(f"the operation {op} on something else than a list or dictionary", unsafe=True)
    stack[-1].put(items)


def _call(function: object, args: object) -> object:
    """Judge a call and return the stand-in of its result."""
    name = function.name if isinstance(function, _Global) else ""
    if isinstance(args, _Box) and args.kind == "tuple":
        if name == _ORDERED and not args:
            return _Box("OrderedDict")
        if name == _PARAMETER_CALL and len(args) == 3 and args[0] is _TENSOR and _is_plain(*args[1:]):
            return _TENSOR
        if name == _TENSOR_CALL and len(args) == 6 and _is_plain(*args[4:]) and _is_within(*args[:4]):
            return _TENSOR
    raise Refusal(f"a call of {name or 'something'} that makes no plain tensor within its storage", unsafe=True)


def _is_plain(requires_grad: object, hooks: object) -> bool:
    return type(requires_grad) is bool and isinstance(hooks, _Box) and hooks.kind == "OrderedDict" and not hooks


def _is_within(storage: object, offset: object, shape: object, strides: object) -> bool:
    """Whether a tensor has no more values than its storage and lies inside it."""
    if not (isinstance(storage, Storage) and isinstance(shape, _Box) and isinstance(strides, _Box)):
        return False
    if shape.kind != "tuple" or strides.kind != "tuple" or len(shape) != len(strides) or len(shape) > _MAX_DIMS:
        return False
    numbers = [number for number in (offset, *shape, *strides) if type(number) is int and 0 <= number < 1 << 62]
    if len(numbers) != 1 + 2 * len(shape):
        return False
    if 0 in shape:  # torch multiplies the other sides all the same
        return numbers[0] <= storage.numel and math.prod(filter(None, shape)) < 1 << 62
    last = numbers[0] + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    return math.prod(shape) <= storage.numel and last < storage.numel


def _check_state(state: object, target: object) -> None:
    """Attributes may be set only where a state dict carries its `_metadata` (versions of modules)."""
    plain = isinstance(state, _Box) and state.kind in _DICTS and state.keys <= {"_metadata"}
    if not plain or not isinstance(target, _Box) or target.kind != "OrderedDict":
        raise Refusal("attributes set on an object", unsafe=True)


def _declare(box: object, fields: int, storages: dict[str, Storage]) -> Storage:
    """Note one storage: ("storage", type, key, location, number of values), and None in the legacy format."""
    if not (isinstance(box, _Box) and box.kind == "tuple" and len(box) == fields and box[0] == "storage"):
        raise Refusal("a reference to something else than a storage", unsafe=True)
    _, kind, key, location, numel, *view = box
    named = isinstance(kind, _Global) and kind.name in _ITEM_SIZES and type(key) is str and type(location) is str
    if not named or type(numel) is not int or numel < 0 or view not in ([], [None]):
        raise Refusal("a storage of unknown type or impossible size", unsafe=True)
    storage = Storage(kind.name, numel)
    if storages.setdefault(key, storage) != storage:
        raise Refusal("one storage declared with two types or sizes", unsafe=True)
    return storage
