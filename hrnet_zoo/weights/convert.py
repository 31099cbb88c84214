"""Checkpoints -> safetensors in the cache -> tensors.

    fetch -> SHA-256 -> static scan -> exact names and shapes -> safetensors -> rename -> memory map

Nothing is loaded before its hash is checked, if one is known. Weights are read from a pickle's file once, here, and
without an unpickler. From then on they live as safetensors, which holds no code, maps into memory without a copy and
carries the digest of its own data. What was converted once is in the cache, and a second call opens no connection.
"""

import errno
import hashlib
import io
import json
import logging
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from hrnet_zoo import __version__
from hrnet_zoo.datasets import CITYSCAPES
from hrnet_zoo.errors import (
    CacheSpaceError,
    CheckpointError,
    CheckpointFormatError,
    CheckpointNotFoundError,
    HashMismatchError,
    raise_on_oom,
    redact,
)
from hrnet_zoo.models.empty import empty_layers
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.weights import cache
from hrnet_zoo.weights.mapping import map_safetensors
from hrnet_zoo.weights.scan import (
    Refusal,
    SafetensorsHeader,
    Storage,
    inspect_checkpoint,
    inspect_safetensors,
    refusals,
    show,
)
from hrnet_zoo.weights.state_dict import CLASSIFIER, class_count, find_state, fit_state, unwrap

CONVERTER_VERSION = 2  # part of cache keys: raise it whenever the same source gives other bytes
MOST_BYTES = 2 << 30  # of a file that the user names: W48 with its optimizer's state has half as many
ROOM = "close what else takes memory: a conversion needs twice the file's size"

# Names and shapes of a network's state dict; as a function: those of the network with so many classes
Shapes = Mapping[str, torch.Size]
ShapesOf = Callable[[int], Shapes]
# A state dict, and the provenance in its file's header
Weights = tuple[dict[str, Tensor], dict[str, str]]

_DTYPES = {  # by kind of storage; weights come in no others
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Float": torch.float32,
    "Double": torch.float64,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Short": torch.int16,
    "Int": torch.int32,
    "Long": torch.int64,
}
_NO_DIGEST = "0" * 64  # holds the digest's place until the data is laid out
_MAX_NAMES, _MAX_NAME = 1000, 100  # class names, and characters of one; a larger `meta` means something else

logger = logging.getLogger("hrnet_zoo")


# --- a .pth file -> tensors ------------------------------------------------------------------------------------------


class Checkpoint(NamedTuple):
    """What a `.pth` file holds.

    Attributes:
        state: its tensors by the network's names, as stored.
        classes: the class names that its own `meta` claims; empty without such a list.
        notes: which of its tensors were taken, and what was taken off their names, in words.

    """

    state: dict[str, Tensor]
    classes: tuple[str, ...]
    notes: str


def read_checkpoint(data: bytes, source: str) -> Checkpoint:
    """Return what a whole `.pth` file holds, without unpickling it; `source` (path or URL) is for messages.

    Whatever lies beside the weights is passed over. What wraps them is taken off (see `state_dict`).

    Raises:
        UnsafeCheckpointError: the file has something else in the place of weights; it was not loaded.
        CheckpointFormatError: it is damaged, or holds no state dict.

    """
    content, arrays = inspect_checkpoint(data, source)
    with refusals(source):
        found, choice = find_state(content)
        storages = dict[Storage, Tensor]()

        def tensor(name: str) -> Tensor:
            """Copy a tensor out of the file; those that share a storage there share memory here."""
            array = found[name]
            kind = array.storage.kind
            if kind not in _DTYPES:
                raise Refusal(f"the tensor {show(name)} of type {kind}, which no weights have")
            if array.storage not in storages:
                values, dtype = bytearray(arrays[array.storage.key]), _DTYPES[kind]
                empty = torch.empty(0, dtype=dtype)
                storages[array.storage] = torch.frombuffer(values, dtype=dtype) if values else empty
            return storages[array.storage].as_strided(array.shape, array.strides, array.offset)

        state, notes = unwrap(found, tensor)
    # Class names, where mmcv and mmengine write them
    meta = content.get("meta") if isinstance(content, dict) else None
    tables = [meta, meta.get("dataset_meta") if isinstance(meta, dict) else None]
    claims = [
        _class_names(table.get(key)) for table in tables if isinstance(table, dict) for key in ("CLASSES", "classes")
    ]
    return Checkpoint(state, next(filter(None, claims), ()), "; ".join(filter(None, (choice, notes))))


def claimed_classes(provenance: Mapping[str, str]) -> tuple[str, ...]:
    """Read the class names that a checkpoint claimed from its file's header; empty if it claimed none.

    They are only used to tell the user where they differ from the dataset's.
    """
    try:
        return _class_names(json.loads(provenance.get("file_classes", "null")))
    except (ValueError, RecursionError):  # the header of a foreign file, where the key may hold anything
        return ()


def _class_names(claimed: object) -> tuple[str, ...]:
    """Return class names if that is what these are, else none."""
    if not isinstance(claimed, list | tuple) or len(claimed) > _MAX_NAMES:
        return ()
    names = tuple(name for name in claimed if isinstance(name, str) and len(name) <= _MAX_NAME)
    return names if len(names) == len(claimed) else ()


# --- tensors -> safetensors ------------------------------------------------------------------------------------------


def convert_checkpoint(
    bodies: list[bytes],
    source: str,
    expected: ShapesOf,
    provenance: Mapping[str, str],
    dtype: torch.dtype | None = None,
) -> bytes:
    """Convert a .pth, popped from a list of one, into a safetensors file with its provenance in the header.

    Args:
        bodies: the file's bytes.
        source: what errors call it.
        expected: names and shapes that the file must have, given its number of classes.
        provenance: `model` and `source_url`; what follows from the bytes is added.
        dtype: of the file's floating entries; None: any.

    Raises:
        CheckpointError: the file is unsafe, damaged, or does not fit.

    """
    body = bodies.pop()
    state, claimed, notes = read_checkpoint(body, source)
    header = {**provenance, **provenance_of(body, claimed, notes)}
    del body
    return to_safetensors(fit_state(state, expected(class_count(state, source)), source, dtype=dtype), header)


def provenance_of(body: bytes, claimed: Sequence[str], notes: str) -> dict[str, str]:
    """Return what a converted file's header says of its source and of the conversion.

    The class names that the file itself claimed go under "file_classes", as a JSON list; under "file_notes", which of
    its tensors were taken.
    """
    return {
        **({"file_classes": json.dumps(claimed)} if claimed else {}),
        **({"file_notes": notes} if notes else {}),
        "source_sha256": hashlib.sha256(body).hexdigest(),
        "source_size": str(len(body)),
        "converter_version": str(CONVERTER_VERSION),
        "hrnet_zoo_version": __version__,
    }


def to_safetensors(state: Mapping[str, Tensor], provenance: Mapping[str, str]) -> bytes:
    """Return the bytes of a safetensors file: a state dict as `fit_state` returns it, and `provenance`.

    The header's metadata is `provenance` plus "format" ("pt") and "data_sha256". For a moment safetensors holds two
    copies of the data.
    """
    metadata = {**provenance, "format": "pt", "data_sha256": _NO_DIGEST}
    file = io.BytesIO(safetensors.torch.save(dict(state), metadata))  # sole owner: patched and returned uncopied
    with file.getbuffer() as view:
        start = 8 + int.from_bytes(view[:8], "little")
        place = bytes(view[:start]).index(f'"data_sha256":"{_NO_DIGEST}"'.encode()) + len('"data_sha256":"')
        view[place : place + 64] = hashlib.sha256(view[start:]).hexdigest().encode()
    return file.getvalue()


def verify_data(path: Path) -> None:
    """Compare the data of a safetensors file with the digest in its header.

    Raises:
        CheckpointNotFoundError: there is no regular, readable file at `path`.
        CheckpointFormatError: it is not a whole safetensors file, or its header has no digest.
        HashMismatchError: the data is not what was written.

    """
    header = inspect_safetensors(path, str(path))
    stated = header.metadata.get("data_sha256")
    if stated is None:
        raise CheckpointFormatError(
            asked=f"verify {path}",
            found="a safetensors file without data_sha256, which hrnet-zoo did not write",
            done="the file was left as it is",
            advice="load it with create_model(NAME, checkpoint=PATH), which checks names, shapes and values",
            source=str(path),
        )
    digest, block, size = hashlib.sha256(), bytearray(1 << 20), header.data_start
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(header.data_start)
            while count := file.readinto(block):
                digest.update(memoryview(block)[:count])
                size += count
    except OSError as error:
        raise CheckpointNotFoundError(
            asked=f"verify {path}",
            found=f"a file that cannot be read to its end: {error.strerror}",
            done="the file was left as it is",
            advice="check the disk",
            source=str(path),
        ) from error
    if digest.hexdigest() != stated:
        raise HashMismatchError(
            asked=f"verify {path}",
            found=f"data with SHA-256 {digest.hexdigest()}, but the header says {stated:.80}",
            done="the file was left as it is",
            advice="delete the file and fetch or write it again; if it happens twice, check the disk and the memory",
            source=str(path),
            expected=stated,
            actual=digest.hexdigest(),
            size=size,
        )


# --- into the cache, and out of it -----------------------------------------------------------------------------------


def load(build: Callable[[], Path], expected: ShapesOf) -> Weights:
    """Map the cached file whose path `build` returns; one that was damaged or removed since is built again.

    Returns:
        Memory-mapped float32 tensors, and the provenance in the file's header.

    Raises:
        CheckpointError: the file does not fit `expected`; and whatever `build` raises.

    """
    for last in (False, False, True):
        path = build()
        try:
            return _map(path, expected)
        except (CheckpointFormatError, CheckpointNotFoundError) as error:
            if last:
                raise
            cause = error.__cause__
            gone = isinstance(cause, OSError) and cause.errno in {errno.ENOENT, getattr(errno, "ESTALE", errno.ENOENT)}
            if isinstance(cause, OSError) and not gone:  # no permission, no memory, a failing disk: it may be whole
                with cache.disk_errors(path, f"read {path}"):
                    raise cause from None
            logger.warning("%s is damaged or gone (%s); it is built again", path, error.found)
            if not gone:
                cache.remove_damaged(path, lambda each: _map(each, expected))
    raise AssertionError  # the last turn has returned or raised


def _map(path: Path, expected: ShapesOf) -> Weights:
    def shapes(header: SafetensorsHeader) -> Shapes:
        _, shape = header.entries.get(f"{CLASSIFIER}.weight", ("", (0,)))
        return expected(shape[0])

    return map_safetensors(path, shapes, str(path), torch.float32)


def fetch_into_cache(
    key: str,
    urls: Sequence[str],
    stated: str,
    convert: Callable[[list[bytes]], bytes],
    *,
    max_bytes: int,
    progress: bool,
) -> Path:
    """Return the cached file of a key; fetch, verify, convert and publish it if it is not there.

    Args:
        key: the cache key.
        urls: where to look, in order.
        stated: SHA-256 or the beginning of one; empty if none is known.
        convert: makes the safetensors' bytes of a list that holds the body, which it pops.
        max_bytes: the largest body accepted.
        progress: show a bar on a terminal.

    Raises:
        DownloadError: the file cannot be had.
        CheckpointError: it is not the file stated, or `convert` refuses it.
        CacheError: the cache cannot be used.
        ConfigError: there is too little memory.

    """
    final = cache.model_path(key)
    if cache.is_cached(key):
        return final
    with cache.lock(key):
        if not cache.is_cached(key):  # another process may have been faster
            bodies, partial = fetch_verified(key, urls, stated, max_bytes=max_bytes, progress=progress)
            try:
                with raise_on_oom(f"convert {key}", done=f"what was fetched stays in {partial}", advice=ROOM):
                    blob = convert(bodies)
                try:
                    publish(key, blob)
                except CacheSpaceError as error:
                    full = isinstance(error.__cause__, OSError) and error.__cause__.errno != errno.EFBIG
                    size = partial.stat().st_size if partial.exists() else 0  # a sweep may have been faster
                    if not full or shutil.disk_usage(partial.parent).free + size < len(blob):
                        raise  # the download would go for nothing
                    logger.info("%s: too little space for the download and the finished file at once", key)
                    cache.discard(partial)
                    publish(key, blob)
            except CheckpointError:
                cache.discard(partial)  # the host may have a better file next time
                raise
            cache.discard(partial)
            cache.sweep()
    return final


def fetch_verified(
    key: str, urls: Sequence[str], stated: str, *, max_bytes: int, progress: bool
) -> tuple[list[bytes], Path]:
    """Fetch a body with the lock of `key` held; return it in a list of one, and the partial download that has it too.

    In a list, so that who converts it can pop it: the peak is twice the file then, not three times.
    """
    # Only here: requests is slow to import, and urllib3 opens a socket when it is (is there IPv6?); a warm
    # load needs neither.
    from hrnet_zoo.weights.download import fetch

    partial = cache.claim_partial(key)

    def verify(body: bytes) -> None:
        check_hash(body, stated, redact(urls[0]))

    return [fetch(urls, partial, max_bytes=max_bytes, verify=verify, progress=progress)], partial


def publish(key: str, blob: bytes) -> None:
    """Write a converted file into the cache; it appears whole, and read back."""
    cache.publish(key, blob, verify_data)


def check_hash(body: bytes, stated: str, source: str) -> None:
    """Compare a file with the SHA-256, or the beginning of one, that its row or its name states; "": none is known.

    Raises:
        HashMismatchError: they differ.

    """
    digest = hashlib.sha256(body).hexdigest()
    if not digest.startswith(stated):
        raise HashMismatchError(
            asked=f"the checkpoint {source}",
            found=f"SHA-256 {digest} of {len(body):,} bytes; expected {stated}{'...' if len(stated) < 64 else ''}",
            done="the file was not loaded and nothing was added to the cache",
            advice="delete it and fetch it again, or from another host; if a published file comes out the same, please "
            "report the digest above; a file of your own: its name ends in digits that are not its hash, rename it",
            source=source,
            expected=stated,
            actual=digest,
            size=len(body),
        )


# --- files that the user names, and what a network expects -----------------------------------------------------------


def read_file(path: Path) -> bytes:
    """Read a checkpoint that the user named.

    Raises:
        CheckpointNotFoundError: there is no regular, readable file, or it is far too large.

    """
    try:
        facts = path.stat()
        if stat.S_ISREG(facts.st_mode):
            require_size(facts.st_size, path)
            return path.read_bytes()
        found = "a folder or special file"
    except FileNotFoundError:
        found = "no such file"
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        found = getattr(error, "strerror", None) or str(error)
    raise _not_found(path, found)


def require_size(size: int, path: Path) -> None:
    """Refuse a file of the user's that is too large to be read.

    Raises:
        CheckpointNotFoundError: no checkpoint for these networks has so many bytes.

    """
    if size > MOST_BYTES:
        most = f"no checkpoint for these networks has more than {MOST_BYTES:,}"
        raise _not_found(path, f"a file of {size:,} bytes; {most}")


def _not_found(path: Path, found: str) -> CheckpointNotFoundError:
    return CheckpointNotFoundError(
        asked=f"the checkpoint {path}",
        found=found,
        done="nothing was loaded",
        advice="give the path of a .pth or .safetensors file",
        source=str(path),
    )


def network_shapes(arch: str, num_classes: int) -> Shapes:
    """Return names and shapes of a network's state dict, without making its tensors."""
    with empty_layers():
        network = FCNHRNet(arch, CITYSCAPES)
    return with_classes({name: entry.shape for name, entry in network.state_dict().items()}, num_classes)


def with_classes(shapes: Shapes, count: int) -> Shapes:
    """Return these names and shapes with another number of classes."""
    weight, bias = f"{CLASSIFIER}.weight", f"{CLASSIFIER}.bias"
    return {**shapes, weight: torch.Size((count, *shapes[weight][1:])), bias: torch.Size((count,))}


def size_limit(shapes: Shapes) -> int:
    """Return the most bytes that a float32 file of these shapes can have: its tensors, 2 % and 4 MiB for the rest."""
    return int(1.02 * sum(4 * shape.numel() for shape in shapes.values())) + (4 << 20)
