"""Checkpoint -> what it says of itself, read without executing anything: pickles, zip archives, safetensors headers.

No unpickler is used, not even torch's restricted one: a small file can make it allocate terabytes, show uninitialized
memory as weights, or hang in the hash of a dictionary key. No class or function that a pickle names is looked up,
imported or called, so whatever a training loop saved beside the weights is passed over. A file is admitted if it has,
to the byte, the layout that `torch.save` gives it (the same in torch 1.6 and 2.13). Memory grows with the file's size,
which is bounded, and never with what the file claims.
"""

import io
import json
import math
import os
import re
import stat
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickletools import OpcodeInfo, genops
from typing import Any, BinaryIO

from hrnet_zoo.errors import CheckpointFormatError, CheckpointNotFoundError, UnsafeCheckpointError

_MAX_OPCODES = 2_000_000  # HRNet-W48 needs 62,000; with the moments of Adam about 200,000
_MAX_STACK = 60_000  # values that wait for their container: a pickler fills it after 1,000 items; tuples are whole
_MAX_PICKLE = 256 << 20  # bytes of one pickle: mmengine keeps the history of every loss
_MAX_STRING = 64 << 20  # bytes of one string: a million values of numpy take 16 MiB
_MAX_LINE = 256  # bytes of a module's or class's name
_MAX_MEMBERS = 20_000  # of a zip archive
_MAX_HEADER = 4 << 20  # bytes of a safetensors header; HRNet-W48 needs 205,264
_MAX_TENSORS = 20_000  # safetensors takes half a minute and a gigabyte for a million
_MAX_DIMS = 16


class Refusal(Exception):  # noqa: N818 - a finding, which `refusals` turns into an error
    """Why a file is refused; `unsafe` tells what weights never need from mere damage."""

    def __init__(self, found: str, *, unsafe: bool = False) -> None:
        super().__init__(found)
        self.unsafe = unsafe


@contextmanager
def refusals(source: str) -> Iterator[None]:
    """Turn a Refusal into the error that users get; `source` (path or URL) is for the message.

    Raises:
        UnsafeCheckpointError: the file has something else in the place of weights.
        CheckpointFormatError: the file is damaged, incomplete or of another kind.

    """
    try:
        yield
    except Refusal as refusal:
        error = UnsafeCheckpointError if refusal.unsafe else CheckpointFormatError
        unsafe_advice = "do not use this file; if it is your own, save model.state_dict() alone"
        advice = "fetch the file again, or save model.state_dict() again with torch.save"
        raise error(
            asked=f"load the checkpoint {source}",
            found=str(refusal),
            done="the file was not executed and nothing of it was loaded",
            advice=unsafe_advice if refusal.unsafe else advice,
            source=source,
        ) from None


def inspect_checkpoint(data: bytes, source: str) -> tuple[object, Mapping[str, memoryview]]:
    """Read a whole `.pth` file, legacy or zip; `source` (path or URL) is for the message.

    Returns:
        What the file describes (see `_walk`), and the bytes of its arrays by the keys of their storages.

    Raises:
        UnsafeCheckpointError, CheckpointFormatError: as `refusals`.

    """
    with refusals(source):
        kind = _kind(data)
        if kind == _ZIP:
            return _inspect_zip(data)
        if kind == _PICKLE:
            return _inspect_legacy(data)
        raise Refusal(f"{kind}, where a file of torch.save was expected")


def show(name: str) -> str:
    """Quote a name from a file so that it can neither flood nor steer a terminal."""
    return ascii(name if len(name) <= 80 else name[:77] + "...")


_ZIP, _PICKLE, _SAFETENSORS = "a zip archive", "a pickle", "a safetensors file"


def _kind(start: bytes) -> str:
    """Name the kind of a file, which its first bytes tell."""
    if not start:
        return "an empty file"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32:
        return _SAFETENSORS
    if start[257:262] == b"ustar":
        return "a tar archive"
    if start[:512].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return "a page of HTML or XML (a login or error page?)"
    for magic, kind in ((b"PK\x03\x04", _ZIP), (b"\x80", _PICKLE), (b"\x1f\x8b", "a gzip file")):
        if start.startswith(magic):
            return kind
    return f"an unknown kind of file (it begins with {start[:8].hex(' ')})"


# --- pickles ---------------------------------------------------------------------------------------------------------

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


@dataclass(slots=True, eq=False, repr=False)  # its state may be nested as deep as the file is long
class Foreign:
    """Stands for an object that is not made: `name` is what would have made it, `state` what it would have held."""

    name: str
    state: object = None

    @property
    def is_module(self) -> bool:
        """Whether it is a `torch.nn.Module`."""
        return isinstance(self.state, dict) and {"_modules", "_parameters"} <= self.state.keys()


@dataclass(frozen=True, slots=True)
class _Global:
    """A class or function by its name, "module name"."""

    name: str


class _Stream(io.BytesIO):
    """The bytes of a file (shared, not copied), of which no opcode can take more than a checkpoint needs."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _MAX_STRING:
            raise Refusal(f"a text of {size} bytes at byte {self.tell()}; the limit is {_MAX_STRING}", unsafe=True)
        return super().read(size)

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(_MAX_LINE)
        # No escapes, which genops would decode
        if b"\\" in line or (len(line) == _MAX_LINE and not line.endswith(b"\n")):
            raise Refusal(f"no name of a module or class at byte {self.tell() - len(line)}", unsafe=True)
        return line


def _walk(stream: _Stream, storages: dict[str, Storage], fields: int = 0) -> object:
    """Read one pickle up to its end and return what it describes.

    Numbers, strings, lists, tuples and dictionaries come as they are, ordered dictionaries as plain ones, tensors as
    `Array`, everything else as `Foreign`. `storages` receives every storage that is mentioned by key, each declared by
    a tuple of `fields` items; where `fields` is 0 no storage is allowed.
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
                stack[-1] = _call(stack[-1], args) if op == "REDUCE" else _foreign(stack[-1])
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
    name = function.name if isinstance(function, _Global) and isinstance(args, tuple) else ""
    match args:
        case (*_,) if name == "collections defaultdict" or (name == "collections OrderedDict" and not args):
            return {}
        case (Array() as array, *_) if name in _PARAMETER_CALLS:
            return array
        case (_Global(name=made_by), _Global(name=kind), arguments, _) if name == _TYPED_CALL and kind in _PLAIN_TYPES:
            if made_by in (_TENSOR_CALL, *_PARAMETER_CALLS):
                return _call(args[0], arguments)
        case (Storage() as storage, int() as offset, tuple() as shape, tuple() as strides, _, _) if (
            name == _TENSOR_CALL
        ):
            if {*map(type, (offset, *shape, *strides))} == {int}:
                return Array(storage, offset, shape, strides)
    return _foreign(function)


def _foreign(function: object) -> Foreign:
    return Foreign(function.name.replace(" ", ".") if isinstance(function, _Global) else "something")


def _declare(entry: object, fields: int, storages: dict[str, Storage]) -> Storage | Foreign:
    """Note one storage: ("storage", type, key, location, number of values), and None in the legacy format."""
    if not isinstance(entry, tuple) or not entry or entry[0] != "storage":
        return Foreign("a reference")  # to a module's source, which torch once saved with whole models
    match entry:
        case (_, _Global(name=kind), str() as key, str(), int() as numel, *view) if len(entry) == fields:
            module, _, title = kind.partition(" ")
            known = title.endswith("Storage") and title.removesuffix("Storage") in _ITEM_SIZES
            sound = type(numel) is int and numel >= 0 and not numel >> 62 and view in ([], [None])
            if module in ("torch", "torch.storage") and known and sound:
                storage = Storage(title.removesuffix("Storage"), key, numel)
                if storages.setdefault(key, storage) != storage:
                    raise Refusal("one storage declared with two types or sizes", unsafe=True)
                return storage
    raise Refusal("a storage of unknown type or impossible size", unsafe=True)


# --- the legacy format: three pickles that never vary, the object, the list of storages, each storage with its length

# MAGIC_NUMBER, PROTOCOL_VERSION and sys_info of torch.serialization
_SIZES = {"short": 2, "int": 4, "long": 4}
_OPENING = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": _SIZES})


def _inspect_legacy(data: bytes) -> tuple[object, dict[str, memoryview]]:
    stream, storages = _Stream(data), dict[str, Storage]()
    for expected in _OPENING:
        if _walk(stream, storages) != expected:
            raise Refusal("a pickle without the opening of torch.save (or of a big-endian machine)")
    content = _walk(stream, storages, fields=6)
    keys = _walk(stream, storages)
    listed = isinstance(keys, list) and all(type(key) is str for key in keys) and sorted(keys) == sorted(storages)
    if not isinstance(keys, list) or not listed:
        raise Refusal("a list of stored arrays that differs from the arrays in use", unsafe=True)
    position, size = stream.tell(), len(data)
    end = position + sum(8 + storage.size for storage in storages.values())
    if end > size:
        raise Refusal(f"a file of {size} bytes that describes {end}: {end - size} bytes are missing")
    if end < size:
        raise Refusal(f"{size - end} bytes after the last array")
    arrays, view = dict[str, memoryview](), memoryview(data)
    for key in keys:
        stored = int.from_bytes(data[position : position + 8], "little")
        if stored != storages[key].numel:
            raise Refusal(f"an array of {storages[key].numel} values that says {stored} at byte {position}")
        arrays[key] = view[position + 8 : position + 8 + storages[key].size]
        position += 8 + storages[key].size
    return content, arrays


# --- the zip format: one folder of uncompressed members without gaps -------------------------------------------------

_LOCAL = struct.Struct("<4s5H3I2H")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_DESCRIPTOR = struct.Struct("<4s3I")
_END = struct.Struct("<4sQ2H2I4Q4sIQI4s4H2IH")  # zip64 end record, its locator and the plain end record
_SIZES_FOLLOW, _UTF8 = 0x8, 0x800  # the flags that torch sets; an encrypted member would have 0x1
_MEMBER = re.compile(r"([^/\\\0]+)/([^\\\0]+)")  # a newer torch may add some of any name, which are not looked at


def _inspect_zip(data: bytes) -> tuple[object, dict[str, memoryview]]:
    try:
        members = _zip_members(data)
    except (struct.error, UnicodeDecodeError):
        raise Refusal("a zip archive with a damaged directory") from None
    if any(name.startswith("code/") or name == "constants.pkl" for name in members):
        raise Refusal("a TorchScript archive (torch.jit.save)")
    if not {"data.pkl", "version"} <= members.keys():
        raise Refusal("a zip archive without data.pkl or version, which torch.save did not write")
    if members.get("byteorder", b"little") != b"little":
        raise Refusal("a file of a big-endian machine, which is not supported")
    if not re.fullmatch(rb"([1-9]|10)\s*", members["version"]):  # torch.load takes as many
        raise Refusal(f"version {show(str(members['version'][:9], 'latin-1'))} of torch's format, which is not known")
    stream, storages = _Stream(members["data.pkl"]), dict[str, Storage]()
    content = _walk(stream, storages, fields=5)
    if stream.read(1):
        raise Refusal("bytes after the end of data.pkl")
    stored = {name.removeprefix("data/"): data for name, data in members.items() if name.startswith("data/")}
    for key, storage in storages.items():
        if key not in stored or len(stored[key]) != storage.size:
            raise Refusal("stored arrays that differ in name or size from the arrays in use", unsafe=True)
    return content, stored


def _zip_members(data: bytes) -> dict[str, memoryview]:
    """Content by name without the top folder; every byte of the archive is accounted for."""
    tail = len(data) - _END.size
    if tail < 0 or data[-22:-18] != b"PK\x05\x06":
        raise Refusal("a zip archive without its end: an interrupted download or copy, or more bytes behind it")
    end = _END.unpack_from(data, tail)
    count, directory = end[7], end[9]
    extent = count, count, tail - directory, directory
    records = (b"PK\x06\x06", 44, *end[2:4], 0, 0, *extent, b"PK\x06\x07", 0, tail, 1, b"PK\x05\x06", 0, 0, *extent, 0)
    if count > _MAX_MEMBERS or data[tail:] != _END.pack(*records):
        raise Refusal("a zip archive that torch.save did not write (its end record differs)")
    members, tops, view, position, entry = dict[str, memoryview](), set[str](), memoryview(data), 0, directory
    for _ in range(count):
        mark, _, _, flags, method, _, _, crc, stored, size, length, *more, offset = _ENTRY.unpack_from(data, entry)
        label = data[entry + _ENTRY.size : entry + _ENTRY.size + length]
        if mark != b"PK\x01\x02":
            raise Refusal("a zip archive with a damaged directory")
        name = _MEMBER.fullmatch(str(label, "utf-8"))
        where = f"the zip member {show(str(label, 'utf-8'))}"
        if not name:
            raise Refusal(f"a zip archive torch.save did not write: it has {where}")
        if flags & ~(_SIZES_FOLLOW | _UTF8) or method or stored != size:
            raise Refusal(f"{where} is compressed or encrypted; torch.save stores members as they are")
        if offset != position or any(more[:3]):  # extra field, comment, disk
            raise Refusal(f"{where} overlaps another, leaves a gap or carries more than its content")
        local = _LOCAL.unpack_from(data, position)
        sizes = (0, 0, 0) if flags & _SIZES_FOLLOW else (crc, size, size)
        header = _LOCAL.pack(b"PK\x03\x04", local[1], flags, 0, *local[4:6], *sizes, length, local[10]) + label
        start = position + len(header) + local[10]
        footer = _DESCRIPTOR.pack(b"PK\x07\x08", crc, size, size) if flags & _SIZES_FOLLOW else b""
        stop = start + size
        if data[position : position + len(header)] != header or data[stop : stop + len(footer)] != footer:
            raise Refusal(f"{where} has headers that contradict each other")
        if stop > directory or zlib.crc32(view[start:stop]) != crc:
            raise Refusal(f"{where} does not match its checksum")
        tops.add(name[1])
        if name[2] in members or len(tops) > 1 or name[1] in (".", ".."):
            raise Refusal(f"{where} appears twice or outside the archive's one folder")
        members[name[2]] = view[start:stop]
        position = stop + len(footer)
        entry += _ENTRY.size + length
    if position != directory or entry != tail:
        raise Refusal("a zip archive with bytes that belong to no member")
    return members


# --- safetensors -----------------------------------------------------------------------------------------------------

# The types in which weights of these networks come; F64 because `fit` narrows it
_DTYPE_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8}


@dataclass(frozen=True)
class SafetensorsHeader:
    """What a safetensors file says of itself.

    Attributes:
        entries: (dtype in the format's own words, shape) by tensor name, in the order of the header.
        places: offset of the tensor's first byte in the file, by tensor name.
        metadata: the strings under `__metadata__`.
        data_start: offset of the first data byte in the file.
        size: of the file, in bytes.
        modified_ns: when the file was last written, by its file system's clock; 0: it is in memory.

    """

    entries: dict[str, tuple[str, tuple[int, ...]]]
    places: dict[str, int]
    metadata: dict[str, str]
    data_start: int
    size: int
    modified_ns: int


def is_safetensors(start: bytes) -> bool:
    """Tell whether a file is safetensors by its first bytes, not by its name."""
    return _kind(start) == _SAFETENSORS


def inspect_safetensors(file: Path | bytes, source: str) -> SafetensorsHeader:
    """Read and check the header of a safetensors file, which must describe the file to the byte; no data is read.

    Raises:
        CheckpointNotFoundError: there is no regular, readable file at this path (a pipe or folder is not opened).
        CheckpointFormatError: the file is damaged, incomplete or of another kind.

    """
    if isinstance(file, bytes):
        return _read_header(io.BytesIO(file), len(file), 0, source)
    with opened_safetensors(file, source) as (header, _):
        return header


@contextmanager
def opened_safetensors(path: Path, source: str) -> Iterator[tuple[SafetensorsHeader, io.BufferedReader]]:
    """Open a safetensors file and check its header, so that what is read next is what was checked.

    Raises:
        CheckpointNotFoundError, CheckpointFormatError: as `inspect_safetensors`.

    """
    with ExitStack() as stack:
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # before open(), which would wait for the writer of a pipe
                raise OSError("a folder, pipe or device")
            file = stack.enter_context(path.open("rb"))
            facts = os.fstat(file.fileno())
            header = _read_header(file, facts.st_size, facts.st_mtime_ns, source)
        except (OSError, ValueError) as error:  # ValueError: a null character in the path
            raise CheckpointNotFoundError(
                asked=f"read the safetensors file {source}",
                found=f"no regular, readable file: {getattr(error, 'strerror', None) or error}",
                done="nothing was loaded",
                advice="check the path",
                source=source,
            ) from error
        yield header, file


def _read_header(file: BinaryIO, size: int, modified_ns: int, source: str) -> SafetensorsHeader:
    try:
        start = file.read(512)
        length = int.from_bytes(start[:8], "little")
        kind = _kind(start)
        if kind != _SAFETENSORS:
            raise Refusal(f"{kind}, where a safetensors file was expected")
        if length > _MAX_HEADER:
            raise Refusal(f"a header of {length} bytes; the limit is {_MAX_HEADER}")
        if 8 + length > size:
            raise Refusal(f"a header of {length} bytes in a file of {size}: {8 + length - size} bytes are missing")
        file.seek(8)
        return _parse_header(file.read(length), size, modified_ns)
    except Refusal as refusal:
        raise CheckpointFormatError(
            asked=f"read the safetensors file {source}",
            found=str(refusal),
            done="nothing was loaded",
            advice="fetch or write the file again; a checkpoint of torch.save needs a name that ends in .pth",
            source=source,
        ) from None


def _parse_header(text: bytes, size: int, modified_ns: int) -> SafetensorsHeader:
    """Read a header that describes, without gap or overlap, all that follows it in a file of `size` bytes."""
    try:
        header = json.loads(text.decode(), object_pairs_hook=_unique, parse_int=_short_int, parse_constant=_short_int)
    except (ValueError, RecursionError):
        raise Refusal("a safetensors header that is not JSON, names a thing twice or nests too deep") from None
    metadata = header.pop("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise Refusal("a safetensors header that is not an object with texts as metadata")
    if len(header) > _MAX_TENSORS:
        raise Refusal(f"{len(header)} tensors; the limit is {_MAX_TENSORS}")
    try:
        "".join((*header, *metadata, *metadata.values())).encode()
    except UnicodeEncodeError:
        raise Refusal("a safetensors header with half a surrogate pair, which is no text") from None
    start = 8 + len(text)
    entries = dict[str, tuple[str, tuple[int, ...]]]()
    places, spans = dict[str, int](), list[tuple[int, int]]()
    for name, facts in header.items():  # plain steps: this is a tenth of the time in which a model is made
        try:
            dtype, shape, (begin, end) = facts["dtype"], facts["shape"], facts["data_offsets"]
            whole = len(facts) == 3 and type(dtype) is str and type(shape) is list
        except (TypeError, LookupError, ValueError):
            whole = False
        if not whole:
            raise Refusal(f"a malformed description of the tensor {show(name)}")
        if dtype not in _DTYPE_SIZES:
            raise Refusal(f"the tensor {show(name)} of type {show(dtype)}; known are {', '.join(_DTYPE_SIZES)}")
        numbers = begin, end, *shape
        # 62 bits: of a tensor without elements, too, torch counts in 64 how far its rows would lie apart.
        if (
            len(shape) > _MAX_DIMS
            or {*map(type, numbers)} != {int}
            or min(numbers) < 0
            or (0 in shape and math.prod(filter(None, shape)) >> 62)
        ):
            raise Refusal(f"the tensor {show(name)} with an impossible shape or place")
        if end - begin != math.prod(shape) * _DTYPE_SIZES[dtype]:
            raise Refusal(f"the tensor {show(name)} of shape {tuple(shape)} in {end - begin} bytes")
        entries[name] = dtype, tuple(shape)
        places[name] = start + begin
        spans.append((begin, end))
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise Refusal(f"tensors that overlap or leave a gap at data byte {position}")
        position = end
    if position != size - start:
        raise Refusal(f"a header that describes {position} data bytes in a file that has {size - start}")
    return SafetensorsHeader(entries, places, metadata, start, size, modified_ns)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a name given twice: readers differ on which of the two they use."""
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name twice")
    return table


def _short_int(digits: str) -> int:
    """Refuse longer numbers, which take quadratic time; NaN and Infinity raise ValueError too."""
    if len(digits) > 18:
        raise ValueError("a number too long")
    return int(digits)
