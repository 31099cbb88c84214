"""Checkpoint -> its contents, read without executing anything: pickles, zip archives, safetensors headers.

No unpickler is used, not even torch's restricted one: a small file can make it allocate terabytes, show uninitialized
memory as weights, or hang in the hash of a dictionary key. No class or function that a pickle names is imported or
called; what a training loop saved beside the weights is passed over. Memory grows with the file's size, which is
bounded, and never with what the file claims.
"""

import io
import json
import math
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickletools import OpcodeInfo, genops
from typing import Any, BinaryIO

from hrnet_zoo.errors import CheckpointFormatError, CheckpointNotFoundError, UnsafeCheckpointError

_MAX_OPCODES = 2_000_000  # HRNet-W48 needs 62,000; with the moments of Adam about 200,000
_MAX_STACK = 60_000  # values that wait for their container: a pickler fills it after 1,000 items; tuples are whole
_MAX_STRING = 64 << 20  # bytes of one string: a million values of numpy take 16 MiB
_MAX_LINE = 256  # bytes of a module's or class's name
_MAX_MEMBERS = 20_000  # of a zip archive
_MAX_HEADER = 4 << 20  # bytes of a safetensors header; HRNet-W48 needs 205,264
_MAX_DIMS = 16


class Refusal(Exception):  # noqa: N818 - a finding, which `refusals` turns into an error
    """Why a file is refused; `unsafe`: it holds what weights never need, rather than damage."""

    def __init__(self, found: str, *, unsafe: bool = False) -> None:
        super().__init__(found)
        self.unsafe = unsafe


@contextmanager
def refusals(source: str) -> Iterator[None]:
    """Turn a Refusal into UnsafeCheckpointError or CheckpointFormatError; `source` (path or URL) is for the message."""
    try:
        yield
    except Refusal as refusal:
        error = UnsafeCheckpointError if refusal.unsafe else CheckpointFormatError
        again = "fetch the file again, or save model.state_dict() again"
        raise error(
            asked=f"load the checkpoint {source}",
            found=str(refusal),
            done="the file was not executed and nothing of it was loaded",
            advice="do not use this file; if it is your own, save model.state_dict() alone"
            if refusal.unsafe
            else again,
            source=source,
        ) from None


def inspect_checkpoint(data: bytes, source: str) -> tuple[object, Mapping[str, memoryview]]:
    """Return what a whole `.pth` file describes (see `_walk`), and the bytes of its arrays by their storages' keys.

    Raises:
        UnsafeCheckpointError: it has something else in the place of weights.
        CheckpointFormatError: it is damaged, incomplete or of another kind.

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
    """Return the kind of a file, by its first bytes."""
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32:
        return _SAFETENSORS
    if start.startswith(b"PK\x03\x04"):
        return _ZIP
    if start.startswith(b"\x80"):
        return _PICKLE
    if start[:512].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return "a page of HTML or XML (a login or error page?)"
    return f"an unknown kind of file (it begins with {start[:8].hex(' ')})" if start else "an empty file"


# --- pickles ---------------------------------------------------------------------------------------------------------

_TENSOR_CALL = "torch._utils _rebuild_tensor_v2"
_PARAMETER_CALLS = ("torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state")
_ITEM_SIZES = {
    **dict.fromkeys(("Bool", "Byte", "Char", "QInt8", "QUInt8", "QUInt4x2", "QUInt2x4", "Untyped"), 1),
    **dict.fromkeys(("Short", "Half", "BFloat16"), 2),
    **dict.fromkeys(("Int", "Float", "QInt32"), 4),
    **dict.fromkeys(("Long", "Double", "ComplexFloat"), 8),
    "ComplexDouble": 16,
}


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
    """Stands for a class or function, by its name "module name", or for an object that it would have made."""

    name: str
    state: object = None  # what the object would have held

    @property
    def is_module(self) -> bool:
        """Whether it is a `torch.nn.Module`."""
        return isinstance(self.state, dict) and {"_modules", "_parameters"} <= self.state.keys()


_SCALARS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_LITERALS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY: dict[str, Callable[[], object]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": lambda: Foreign("set")}
_TAKES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2}  # so many values
_TAKES_MARKED = {"TUPLE", "APPENDS", "SETITEMS", "ADDITEMS", "FROZENSET", "POP_MARK"}  # all since the last mark


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
    """Return what one pickle describes: plain values as they are, tensors as `Array`, everything else as `Foreign`.

    `storages` receives every storage by its key, each declared by a tuple of `fields` items; 0: none is allowed.
    """
    position = stream.tell()
    stack, marks, memo = list[Any](), list[list[Any]](), dict[int, Any]()
    steps: Iterator[tuple[OpcodeInfo, Any, Any]] = genops(stream)
    try:
        for count, (opcode, arg, position) in enumerate(steps):
            op = opcode.name
            if count > _MAX_OPCODES or len(stack) > _MAX_STACK:
                raise Refusal("a pickle far larger than a checkpoint needs", unsafe=True)
            if (op == "PROTO") != (count == 0) or (op == "PROTO" and not 2 <= arg <= 5):
                raise Refusal(f"a pickle of another protocol than 2 to 5, at byte {position}")
            if op in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
                memo[len(memo) if op == "MEMOIZE" else arg] = stack[-1]
            elif op in ("BINGET", "LONG_BINGET"):
                stack.append(memo[arg])
            elif op in _SCALARS:
                stack.append(arg)
            elif op in _LITERALS:
                stack.append(_LITERALS[op])
            elif op in _EMPTY:
                stack.append(_EMPTY[op]())
            elif op == "MARK":
                marks.append(stack)
                stack = []
            elif op in _TAKES or op in _TAKES_MARKED:
                if op in _TAKES:
                    items = [stack.pop() for _ in range(_TAKES[op])][::-1]
                else:
                    items, stack = stack, marks.pop()
                if op.startswith("TUPLE"):
                    stack.append(tuple(items))
                elif op == "FROZENSET":
                    stack.append(Foreign("frozenset"))
                elif op != "POP_MARK":
                    _put(stack[-1], op, items)
            elif op == "POP":  # of a tuple that holds itself
                if stack:
                    stack.pop()
                else:
                    stack = marks.pop()
            elif op == "GLOBAL":
                stack.append(Foreign(arg))
            elif op == "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                if type(name) is not str or type(module) is not str or len(name) + len(module) > _MAX_LINE:
                    raise Refusal(f"no name of a module or class at byte {position}", unsafe=True)
                stack.append(Foreign(f"{module} {name}"))
            elif op in ("REDUCE", "NEWOBJ", "NEWOBJ_EX"):
                args = stack.pop() if op != "NEWOBJ_EX" else (stack.pop(), stack.pop())
                stack[-1] = _call(stack[-1], args if op == "REDUCE" else None)
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
        raise Refusal(f"a pickle that is broken or breaks off, at byte {position}") from None
    return result


def _put(target: object, op: str, items: list[Any]) -> None:
    """Put items into the container that waits for them; nothing goes into an object that is not made."""
    if isinstance(target, Foreign):
        return
    if type(target) is list and op.startswith("APPEND"):
        target.extend(items)
    elif type(target) is dict and op.startswith("SETITEM"):
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
    name = function.name if isinstance(function, Foreign) else "something"
    match args:
        case tuple() if name == "collections defaultdict" or (name == "collections OrderedDict" and not args):
            return {}
        case (Array() as array, *_) if name in _PARAMETER_CALLS:
            return array
        case (Storage() as stored, int() as offset, tuple() as shape, tuple() as strides, _, _) if name == _TENSOR_CALL:
            if {*map(type, (offset, *shape, *strides))} == {int}:
                return Array(stored, offset, shape, strides)
    return Foreign(name.replace(" ", "."))


def _declare(entry: object, fields: int, storages: dict[str, Storage]) -> Storage | Foreign:
    """Record one storage: ("storage", type, key, location, number of values), and None in the legacy format."""
    if not isinstance(entry, tuple) or not entry or entry[0] != "storage":
        return Foreign("a reference")  # to a module's source, which torch once saved with whole models
    match entry:
        case (_, Foreign(name=kind), str() as key, str(), int() as numel, *view) if len(entry) == fields:
            module, _, title = kind.partition(" ")
            known = title.endswith("Storage") and title.removesuffix("Storage") in _ITEM_SIZES
            sound = type(numel) is int and numel >= 0 and not numel >> 62 and view in ([], [None])
            if module in ("torch", "torch.storage") and known and sound:
                storage = Storage(title.removesuffix("Storage"), key, numel)
                if storages.setdefault(key, storage) == storage:
                    return storage
    raise Refusal("a storage of unknown type, of impossible size, or with two types or sizes", unsafe=True)


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
    if (
        not isinstance(keys, list)
        or len(keys) != len(storages)
        or {key for key in keys if type(key) is str} != storages.keys()
    ):
        raise Refusal("a list of stored arrays that differs from the arrays in use", unsafe=True)
    position, arrays, view = stream.tell(), dict[str, memoryview](), memoryview(data)
    end = position + sum(8 + storage.size for storage in storages.values())
    if end != len(data):
        raise Refusal(f"a file of {len(data):,} bytes that describes {end:,}")
    for key in keys:
        stored = int.from_bytes(data[position : position + 8], "little")
        if stored != storages[key].numel:
            raise Refusal(f"an array of {storages[key].numel} values that says {stored} at byte {position}")
        arrays[key] = view[position + 8 : position + 8 + storages[key].size]
        position += 8 + storages[key].size
    return content, arrays


# --- the zip format: one folder of uncompressed members without gaps -------------------------------------------------

_HEADER_SIZE, _FOOTER_SIZE, _HAS_FOOTER = 30, 16, 0x8  # bytes around a member; the flag of those that have both
_BROKEN_ZIP = (zipfile.BadZipFile, RuntimeError, ValueError, OSError, EOFError, OverflowError, struct.error)


def _inspect_zip(data: bytes) -> tuple[object, dict[str, memoryview]]:
    try:
        members = _zip_members(data)
    except _BROKEN_ZIP:
        raise Refusal("a zip archive that is damaged, incomplete or not as torch.save writes them") from None
    if not {"data.pkl", "version"} <= members.keys():
        raise Refusal("a zip archive without data.pkl or version, which torch.save did not write")
    little_endian = members.get("byteorder", b"little") == b"little"
    if not little_endian or not re.fullmatch(rb"([1-9]|10)\s*", members["version"]):  # torch.load takes as many
        raise Refusal("a file of a big-endian machine, or of a version of torch's format that is not known")
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
    """Return content by name without the top folder; every byte of the archive is accounted for."""
    if data.count(b"PK\x01\x02") > _MAX_MEMBERS:  # the mark of each in the directory
        raise Refusal(f"a zip archive of more than {_MAX_MEMBERS} members")
    members, view, position = dict[str, memoryview](), memoryview(data), 0
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        folder = "".join(archive.namelist()[:1]).partition("/")[0]
        for info in archive.infolist():
            archive.open(info).close()  # raises where the two headers of a member differ, or it is encrypted
            name_size, padding = struct.unpack_from("<2H", data, position + 26)
            start = position + _HEADER_SIZE + name_size + padding
            content = view[start : start + info.file_size]
            name = info.filename.removeprefix(f"{folder}/")
            if (
                (info.header_offset, info.compress_type, info.compress_size) != (position, 0, info.file_size)
                or (info.extra, info.comment) != (b"", b"")
                or zlib.crc32(content) != info.CRC
                or name == info.filename
                or name in members
            ):
                raise Refusal(f"the zip member {show(info.filename)}, which is compressed, damaged or out of place")
            members[name] = content
            position = start + info.file_size + (_FOOTER_SIZE if info.flag_bits & _HAS_FOOTER else 0)
        if position != archive.start_dir or data[-22:-18] != b"PK\x05\x06":
            raise Refusal("a zip archive with bytes that belong to no member")
    return members


# --- safetensors -----------------------------------------------------------------------------------------------------

# The types in which weights of these networks come; F64 because `fit_state` narrows it
_DTYPE_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8}


@dataclass(frozen=True)
class SafetensorsHeader:
    """The header of a safetensors file."""

    entries: dict[str, tuple[str, tuple[int, ...]]]  # by tensor: dtype in the format's own words, shape
    places: dict[str, int]  # by tensor: offset of its first byte in the file
    metadata: dict[str, str]
    data_start: int  # offset of the first data byte in the file
    size: int  # of the file, in bytes


def is_safetensors(start: bytes) -> bool:
    """Return whether a file is safetensors, by its first bytes."""
    return _kind(start) == _SAFETENSORS


def inspect_safetensors(file: Path | bytes, source: str) -> SafetensorsHeader:
    """Read and check the header of a safetensors file, which must describe the file to the byte; no data is read.

    Raises:
        CheckpointNotFoundError: there is no regular, readable file at this path (a pipe or folder is not opened).
        CheckpointFormatError: the file is damaged, incomplete or of another kind.

    """
    if isinstance(file, bytes):
        with refusals(source):
            return _read_header(io.BytesIO(file), len(file))
    with opened_safetensors(file, source) as (header, _):
        return header


@contextmanager
def opened_safetensors(path: Path, source: str) -> Iterator[tuple[SafetensorsHeader, io.BufferedReader]]:
    """Open a safetensors file and check its header; errors are as those of `inspect_safetensors`, in the block too."""
    try:
        if "\0" in str(path) or not stat.S_ISREG(path.stat().st_mode):  # open() would wait for the writer of a pipe
            raise OSError("a folder, pipe or device")
        with path.open("rb") as file:
            with refusals(source):
                header = _read_header(file, os.fstat(file.fileno()).st_size)
            yield header, file
    except (OSError, UnicodeError) as error:  # UnicodeError: a path that no file system can have
        raise CheckpointNotFoundError(
            asked=f"read the safetensors file {source}",
            found=f"no regular, readable file: {getattr(error, 'strerror', None) or error}",
            done="nothing was loaded",
            advice="check the path and the disk",
            source=source,
        ) from error


def _read_header(file: BinaryIO, size: int) -> SafetensorsHeader:
    """Read a header that describes, without gap or overlap, all that follows it in a file of `size` bytes."""
    kind = _kind(file.read(512))
    if kind != _SAFETENSORS:
        raise Refusal(f"{kind}, where a safetensors file was expected")
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > min(_MAX_HEADER, size - 8):
        raise Refusal(f"a file of {size:,} bytes that describes a header of {length:,}; the limit is {_MAX_HEADER:,}")
    entries, places = dict[str, tuple[str, tuple[int, ...]]](), dict[str, int]()
    start, position, name = 8 + length, 0, ""
    try:
        text = file.read(length).decode()
        table = json.loads(text, object_pairs_hook=_unique)
        metadata = table.pop("__metadata__", {})
        "".join((*table, *metadata, *metadata.values())).encode()  # raises for what is no text
        for name, facts in sorted(table.items(), key=lambda item: item[1]["data_offsets"]):
            dtype, shape, (begin, end) = facts["dtype"], facts["shape"], facts["data_offsets"]
            numbers = (begin, end, *shape)
            if (
                len(facts) != 3
                or {*map(type, numbers)} != {int}
                or min(numbers) < 0
                or len(shape) > _MAX_DIMS
                or math.prod(filter(None, shape)) >> 62  # as torch counts, whose rows lie apart even without elements
                or begin != position
                or end - begin != math.prod(shape) * _DTYPE_SIZES[dtype]
            ):
                raise ValueError(name)
            entries[name] = dtype, tuple(shape)
            places[name] = start + begin
            position = end
        if start + position != size:
            raise Refusal(f"a file of {size:,} bytes that describes {start + position:,}")
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        place = f" (at the tensor {show(name)})" if name else ""
        types = ", ".join(_DTYPE_SIZES)
        raise Refusal(f"a safetensors header that is damaged, or names other types than {types}{place}") from None
    return SafetensorsHeader(entries, places, metadata, start, size)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a name given twice: readers differ on which of the two they use."""
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name twice")
    return table
