"""Checkpoints -> safetensors in the cache -> tensors.

    fetch -> SHA-256 -> static scan -> exact names and shapes -> safetensors -> rename -> memory map

A pickle's file is read once, here, and without an unpickler. From then on its weights live as safetensors, which holds
no code, maps into memory without a copy and carries the digest of its own data. A second call opens no connection.
"""

import errno
import hashlib
import io
import json
import logging
import math
import mmap
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
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
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.models.hrnet import SPECS, HRNet
from hrnet_zoo.models.skip_init import skip_init
from hrnet_zoo.weights import cache
from hrnet_zoo.weights.scan import (
    Refusal,
    SafetensorsHeader,
    Storage,
    inspect_checkpoint,
    opened_safetensors,
    refusals,
    show,
)
from hrnet_zoo.weights.state_dict import compare, find_state, fit_state, unwrap

CONVERTER_VERSION = 2  # part of cache keys: raise it whenever the same source gives other bytes
MOST_BYTES = 2 << 30  # of a file that the user names: W48 with its optimizer's state has half as many
ROOM = "close what else takes memory: a conversion needs twice the file's size"

STEM = "backbone.conv1.weight"  # the one tensor whose shape depends on the bands of images

Shapes = Mapping[str, torch.Size]  # names and shapes of a network's state dict
Weights = tuple[dict[str, Tensor], dict[str, str]]  # a state dict, and the provenance in its file's header
# What `unwrap` and `unwrap_backbone` are
Unwrap = Callable[[Iterable[str], Callable[[str], Tensor]], tuple[dict[str, Tensor], str]]

# Weights come in no other types; by their names in pickles, and in safetensors
_KINDS = {kind: getattr(torch, kind.lower()) for kind in ("Half", "BFloat16", "Float", "Double", "Long")}
_TYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64, "I64": torch.int64}
_NO_DIGEST = "0" * 64  # holds the digest's place until the data is laid out
_MAX_NAMES, _MAX_NAME = 1000, 100  # class names, and characters of one; a larger `meta` means something else

logger = logging.getLogger("hrnet_zoo")


class Checkpoint(NamedTuple):
    """What a `.pth` file holds."""

    state: dict[str, Tensor]  # by the network's names, as stored
    classes: tuple[str, ...]  # the names that its own `meta` claims, if any
    notes: str  # which of its tensors were taken, and what was taken off their names


def read_checkpoint(data: bytes, source: str, unwrap: Unwrap = unwrap) -> Checkpoint:
    """Return what a whole `.pth` file holds, without unpickling it; `source` (path or URL) is for messages.

    Raises:
        UnsafeCheckpointError, CheckpointFormatError: as `refusals`.

    """
    content, arrays = inspect_checkpoint(data, source)
    with refusals(source):
        found, choice = find_state(content)
        storages = dict[Storage, Tensor]()

        def tensor(name: str) -> Tensor:
            """Copy a tensor out of the file; those that share a storage there share memory here."""
            storage = found[name].storage
            if storage.kind not in _KINDS:
                raise Refusal(f"the tensor {show(name)} of type {storage.kind}, which no weights have")
            if storage not in storages:
                values = np.frombuffer(bytearray(arrays[storage.key]), np.uint8)
                storages[storage] = torch.from_numpy(values).view(_KINDS[storage.kind])
            return storages[storage].as_strided(found[name].shape, found[name].strides, found[name].offset)

        state, notes = unwrap(found, tensor)
    meta = content.get("meta") if isinstance(content, dict) else None
    later = meta.get("dataset_meta") if isinstance(meta, dict) else None
    tables = [table for table in (meta, later) if isinstance(table, dict)]  # of mmcv, and of mmengine
    claims = [_class_names(table.get(key)) for table in tables for key in ("CLASSES", "classes")]
    return Checkpoint(state, next(filter(None, claims), ()), "; ".join(filter(None, (choice, notes))))


def claimed_classes(provenance: Mapping[str, str]) -> tuple[str, ...]:
    """Read the class names that a checkpoint claimed from its file's header; empty if it claimed none."""
    try:
        return _class_names(json.loads(provenance.get("file_classes", "null")))
    except (ValueError, RecursionError):  # the header of a foreign file, where the key may hold anything
        return ()


def _class_names(claimed: object) -> tuple[str, ...]:
    """Return class names if that is what these are, else none."""
    if not isinstance(claimed, list | tuple) or len(claimed) > _MAX_NAMES:
        return ()
    return tuple(claimed) if all(isinstance(name, str) and len(name) <= _MAX_NAME for name in claimed) else ()


def convert_checkpoint(
    bodies: list[bytes],
    source: str,
    expected: Shapes,
    provenance: Mapping[str, str],
    unwrap: Unwrap = unwrap,
) -> bytes:
    """Convert a .pth, popped from a list of one, into a safetensors file.

    `provenance` (`model` and `source_url`) goes into the header; `unwrap` takes the network, or its backbone alone.

    Raises:
        CheckpointError: the file is unsafe, damaged, or does not fit.

    """
    body = bodies.pop()
    state, claimed, notes = read_checkpoint(body, source, unwrap)
    header = {**provenance, **provenance_of(body, claimed, notes)}
    del body
    return to_safetensors(fit_state(state, expected, source), header)


def provenance_of(body: bytes, claimed: Sequence[str], notes: str) -> dict[str, str]:
    """Return what a converted file's header says of its source and of the conversion."""
    return {
        **({"file_classes": json.dumps(claimed)} if claimed else {}),
        **({"file_notes": notes} if notes else {}),
        "source_sha256": hashlib.sha256(body).hexdigest(),
        "source_size": str(len(body)),
        "converter_version": str(CONVERTER_VERSION),
        "hrnet_zoo_version": __version__,
    }


def to_safetensors(state: Mapping[str, Tensor], provenance: Mapping[str, str]) -> bytes:
    """Return the bytes of a safetensors file: a state dict as `fit_state` returns it, `provenance` and "data_sha256".

    For a moment safetensors holds two copies of the data.
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
        HashMismatchError: the data is not what was written, or the header has no digest.
        CheckpointError: it is no whole, readable safetensors file.

    """
    digest = hashlib.sha256()
    with opened_safetensors(path, str(path)) as (header, file):
        file.seek(header.data_start)
        while block := file.read(1 << 20):
            digest.update(block)
    stated = header.metadata.get("data_sha256", "")
    if digest.hexdigest() != stated:
        raise HashMismatchError(
            asked=f"verify {path}",
            found=f"data with SHA-256 {digest.hexdigest()}, but the header says {stated or 'nothing':.80}",
            done="the file was left as it is",
            advice="delete the file and fetch or write it again; if it happens twice, check the disk and the memory",
            source=str(path),
            expected=stated,
            actual=digest.hexdigest(),
            size=header.size,
        )


def map_safetensors(
    path: Path, expected: Callable[[SafetensorsHeader], Shapes], source: str, dtype: torch.dtype | None = None
) -> Weights:
    """Map a safetensors file into memory; return its tensors, in the order of `expected`, and the header's metadata.

    Nothing is mapped before the header fits. The pages are private: writing to a tensor leaves the file as it is. Each
    tensor has a storage of its own. Only for files of the cache, which are never rewritten in place: later changes to
    the bytes show in the tensors, and a file that is shortened ends the process (SIGBUS).

    `expected` returns names and shapes that it must have, given its header; `dtype` is as for `fit_state`, and `source`
    is for messages.

    Raises:
        CheckpointError: the file is missing, damaged, changed meanwhile, or does not fit.

    """
    with opened_safetensors(path, source) as (header, file):
        entries = {name: (_TYPES[kind], shape) for name, (kind, shape) in header.entries.items()}
        names = expected(header)
        compare(entries, names, source, dtype)
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        if len(pages) != header.size:
            raise OSError(errno.ESTALE, "it was changed while it was read")
        return {name: _tensor(pages, header.places[name], *entries[name]) for name in names}, header.metadata


def _tensor(pages: mmap.mmap, place: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    count = math.prod(shape)
    if not count or place % dtype.itemsize:  # frombuffer refuses it; the format allows it, not every processor does
        data = np.frombuffer(bytearray(pages[place : place + count * dtype.itemsize]), np.uint8)
        return torch.from_numpy(data).view(dtype).view(shape)
    return torch.frombuffer(pages, dtype=dtype, count=count, offset=place).view(shape)


def load(build: Callable[[], Path], expected: Shapes) -> Weights:
    """Map the cached float32 file whose path `build` returns; one that was damaged or removed since is built again.

    Raises:
        CheckpointError: the file does not fit `expected`; and whatever `build` raises.

    """

    def read(path: Path) -> Weights:
        return map_safetensors(path, lambda _: expected, str(path), torch.float32)

    for last in (False, False, True):
        path = build()
        try:
            return read(path)
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
                cache.remove_damaged(path, read)
    raise AssertionError  # the last turn has returned or raised


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

    `stated` is the body's SHA-256, the beginning of it, or empty. `convert` pops the body from a list of one and makes
    a safetensors file of it. A body of more than `max_bytes` is refused.

    Raises:
        DownloadError, CheckpointError, CacheError: the file cannot be had, is the wrong one, or cannot be written.
        ConfigError: out of memory.

    """
    if cache.is_cached(key):
        return cache.path_of(key)
    with cache.lock(key):
        if cache.is_cached(key):  # another process was faster
            return cache.path_of(key)
        bodies, partial = fetch_verified(key, urls, stated, max_bytes=max_bytes, progress=progress)
        try:
            with raise_on_oom(f"convert {key}", done=f"what was fetched stays in {partial}", advice=ROOM):
                blob = convert(bodies)
            try:
                publish(key, blob)
            except CacheSpaceError as error:
                if getattr(error.__cause__, "errno", None) == errno.EFBIG:
                    raise  # a limit for each file: more room would not help
                size = partial.stat().st_size if partial.exists() else 0  # a sweep may have been faster
                if shutil.disk_usage(partial.parent).free + size < len(blob):
                    raise  # the download would go for nothing
                cache.discard(partial)
                publish(key, blob)
        except CheckpointError:
            cache.discard(partial)  # the host may have a better file next time
            raise
        cache.discard(partial)
        cache.sweep()
    return cache.path_of(key)


def fetch_verified(
    key: str, urls: Sequence[str], stated: str, *, max_bytes: int, progress: bool
) -> tuple[list[bytes], Path]:
    """Fetch a body with the lock of `key` held; return it in a list of one, and the partial download that has it too.

    In a list, so that who converts it can pop it: the peak is twice the file then, not three times.
    """
    from hrnet_zoo.weights.download import fetch  # slow, and urllib3 opens a socket when it is imported

    partial, shown = cache.claim_partial(key), redact(urls[0])
    body = fetch(
        urls, partial, max_bytes=max_bytes, verify=lambda body: check_hash(body, stated, shown), progress=progress
    )
    return [body], partial


def publish(key: str, blob: bytes) -> None:
    """Write a converted file into the cache; it appears whole, and read back."""
    cache.publish(key, blob, verify_data)


def check_hash(body: bytes | mmap.mmap, stated: str, source: str) -> None:
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
            advice="fetch it again, or from another host; rename a file of your own whose name ends in other digits",
            source=source,
            expected=stated,
            actual=digest,
            size=len(body),
        )


def read_file(path: Path) -> bytes:
    """Read a checkpoint that the user named.

    Raises:
        CheckpointNotFoundError: it is no regular, readable file, or far too large.

    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # open() would wait for the writer of a pipe
            raise OSError("a folder or special file")
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            if before.st_size > MOST_BYTES:
                raise OSError(f"a file of {before.st_size:,} bytes; no checkpoint has more than {MOST_BYTES:,}")
            body = file.read()
            if os.fstat(file.fileno()).st_mtime_ns != before.st_mtime_ns:
                raise OSError("it was changed while it was read")
            return body
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise CheckpointNotFoundError(
            asked=f"the checkpoint {path}",
            found=getattr(error, "strerror", None) or str(error),
            done="nothing was loaded",
            advice="give the path of a .pth or .safetensors file",
            source=str(path),
        ) from error


def network_shapes(arch: str, num_classes: int, method: str = "FCN", bands: int = 3) -> Shapes:
    """Return names and shapes of a network's state dict, without making its tensors."""
    with skip_init():
        network = FCNHRNet(arch, CITYSCAPES, method=method)
    shapes = {name: entry.shape for name, entry in network.state_dict().items()}
    return with_bands(with_classes(shapes, num_classes), bands)


def with_bands(shapes: Shapes, count: int) -> Shapes:
    """Return these names and shapes with another number of bands of the images."""
    output, _, *kernel = shapes[STEM]
    return {**shapes, STEM: torch.Size((output, count, *kernel))}


def backbone_shapes(arch: str) -> Shapes:
    """Return names and shapes of a backbone's state dict, without making its tensors."""
    with skip_init():
        return {name: entry.shape for name, entry in HRNet(SPECS[arch]).state_dict().items()}


def with_classes(shapes: Shapes, count: int) -> Shapes:
    """Return these names and shapes with another number of classes."""
    return {name: torch.Size((count, *shape[1:])) if ".conv_seg." in name else shape for name, shape in shapes.items()}


def size_limit(shapes: Shapes) -> int:
    """Return the most bytes that a float32 file of these shapes can have: its tensors, 2 % and 16 MiB for the rest.

    mmengine keeps the history of a dozen figures: 16 bytes for each, in each of 40,000 updates.
    """
    return int(1.02 * sum(4 * shape.numel() for shape in shapes.values())) + (16 << 20)
