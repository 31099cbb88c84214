"""A checkpoint read without executing anything: what its pickle says (`opcodes.py`), and where its arrays lie.

No unpickler is used, not even torch's restricted one, which a small file can have ask for terabytes, show uninitialized
memory as weights or hang in the hash of a dictionary key. A file is admitted if it has the layout that `torch.save`
gives it, to the byte (files of torch 1.6 and 2.13 were compared: same layout).
"""

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
from io import BufferedReader
from pathlib import Path
from typing import Any

from hrnet_zoo.errors import CheckpointFormatError, CheckpointNotFoundError, UnsafeCheckpointError
from hrnet_zoo.weights.opcodes import Refusal, Storage, Stream, show, walk

_MAX_MEMBERS = 20_000  # of a zip archive
_MAX_HEADER = 4 << 20  # bytes of a safetensors header; HRNet-W48 needs 205,264
_MAX_TENSORS = 20_000  # safetensors takes half a minute and a gigabyte for a million
_MAX_DIMS = 16

Entries = dict[str, tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class SafetensorsHeader:
    """What a safetensors file says of itself.

    Attributes:
        entries: (dtype in the format's own words, shape) by tensor name, in the order of the header.
        places: offset of the tensor's first byte in the file, by tensor name.
        metadata: the texts under `__metadata__`.
        data_start: offset of the first data byte in the file.
        size: of the file, in bytes.
        modified_ns: when the file was last written, as its file system tells.

    """

    entries: Entries
    places: dict[str, int]
    metadata: dict[str, str]
    data_start: int
    size: int
    modified_ns: int


def inspect_checkpoint(data: bytes, source: str) -> tuple[object, Mapping[str, memoryview]]:
    """Read a whole `.pth` file, legacy or zip, or say why not; `source` (path or URL) is for the message.

    Returns:
        What the file describes (see `opcodes.walk`), and the bytes of its arrays by the keys of their storages.

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
        unsafe_advice = "do not use this file, unless it is your own: then write it anew, model.state_dict() alone"
        advice = "fetch the file again, or write it anew with torch.save of model.state_dict()"
        raise error(
            asked=f"load the checkpoint {source}",
            found=str(refusal),
            done="the file was not executed and nothing of it was loaded",
            advice=unsafe_advice if refusal.unsafe else advice,
            source=source,
        ) from None


def is_safetensors(start: bytes) -> bool:
    """Tell by its first bytes, and not by its name, whether a file is safetensors."""
    return _kind(start) == _SAFETENSORS


def inspect_safetensors(path: Path, source: str) -> SafetensorsHeader:
    """Read and check the header of a safetensors file, which must describe the file to the byte; no data is read.

    Raises:
        CheckpointNotFoundError: there is no regular, readable file at `path` (a pipe or folder is not opened).
        CheckpointFormatError: the file is damaged, incomplete or of another kind.

    """
    with opened_safetensors(path, source) as (header, _):
        return header


@contextmanager
def opened_safetensors(path: Path, source: str) -> Iterator[tuple[SafetensorsHeader, BufferedReader]]:
    """Open a safetensors file, and check it as `inspect_safetensors` does: what is read next is what was looked at.

    Raises:
        CheckpointNotFoundError, CheckpointFormatError: as `inspect_safetensors`.

    """
    asked = f"read the safetensors file {source}"
    with ExitStack() as stack:
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # before open(), which would wait for the writer of a pipe
                raise OSError("a folder, pipe or device")
            file = stack.enter_context(path.open("rb"))
            facts = os.fstat(file.fileno())
            size = facts.st_size
            start = file.read(512)
            length = int.from_bytes(start[:8], "little")
            file.seek(8)
            text = file.read(min(length, _MAX_HEADER))
        except (OSError, ValueError) as error:  # ValueError: a null character in the path
            raise CheckpointNotFoundError(
                asked=asked,
                found=f"no regular, readable file: {getattr(error, 'strerror', None) or error}",
                done="nothing was loaded",
                advice="check the path",
                source=source,
            ) from error
        try:
            kind = _kind(start)
            if kind != _SAFETENSORS:
                raise Refusal(f"{kind}, where a safetensors file was expected")
            if length > _MAX_HEADER:
                raise Refusal(f"a header of {length} bytes; the limit is {_MAX_HEADER}")
            if 8 + length > size:
                raise Refusal(f"a header of {length} bytes in a file of {size}: {8 + length - size} bytes are missing")
            header = _parse_header(text, size, facts.st_mtime_ns)
        except Refusal as refusal:
            raise CheckpointFormatError(
                asked=asked,
                found=str(refusal),
                done="nothing was loaded",
                advice="fetch or write the file again; a checkpoint of torch.save needs a name that ends in .pth",
                source=source,
            ) from None
        yield header, file


_ZIP, _PICKLE, _SAFETENSORS = "a zip archive", "a pickle", "a safetensors file"


def _kind(start: bytes) -> str:
    """Tell by its first bytes what a file is, in words for the message."""
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


# --- the legacy format: three pickles that never vary, the object, the list of storages, each storage with its length

# MAGIC_NUMBER, PROTOCOL_VERSION and sys_info of torch.serialization; all but the object's walk allow no storage
_SIZES = {"short": 2, "int": 4, "long": 4}
_OPENING = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": _SIZES})


def _inspect_legacy(data: bytes) -> tuple[object, dict[str, memoryview]]:
    stream, storages = Stream(data), dict[str, Storage]()
    for expected in _OPENING:
        if walk(stream, storages) != expected:
            raise Refusal("a pickle without the opening of torch.save (or of a big-endian machine)")
    content = walk(stream, storages, fields=6)
    keys = walk(stream, storages)
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
    stream, storages = Stream(members["data.pkl"]), dict[str, Storage]()
    content = walk(stream, storages, fields=5)
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

# The types in which weights of these networks come; F64 because `convert.fit` narrows it
_DTYPE_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8}


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
    entries, places, spans = Entries(), dict[str, int](), list[tuple[int, int]]()
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
    """Refuse a name given twice: readers differ on which of the two counts."""
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name twice")
    return table


def _short_int(digits: str) -> int:
    """Read at most 18 digits, for longer numbers take quadratic time; NaN and Infinity raise ValueError like them."""
    if len(digits) > 18:
        raise ValueError("a number too long")
    return int(digits)
