"""The one way of a checkpoint's bytes into the cache, and out of it into tensors.

    fetch -> SHA-256 -> static reading -> exact names and shapes -> safetensors -> rename -> memory map

Nothing is loaded before its hash is known where a hash is known. What was converted once is in the cache, and a
second call opens no connection.
"""

import errno
import hashlib
import json
import logging
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

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
from hrnet_zoo.weights.convert import CONVERTER_VERSION, class_count, fit, read_checkpoint, to_safetensors, verify_data
from hrnet_zoo.weights.gate import SafetensorsHeader
from hrnet_zoo.weights.mapping import map_safetensors
from hrnet_zoo.weights.part import discard, disk_errors, size_of
from hrnet_zoo.weights.state_dict import CLASSIFIER

# Names and shapes of a network's state dict; as a function: those of the network with so many classes.
Entries = Mapping[str, torch.Size]
EntriesOf = Callable[[int], Entries]
# A state dict and the provenance in its file's header.
Weights = tuple[dict[str, Tensor], dict[str, str]]

MOST_BYTES = 2 << 30  # of a file that the user names: W48's with what an optimizer keeps of it have half as many
ROOM = "close what else takes memory: a conversion needs twice the file's size"

logger = logging.getLogger("hrnet_zoo")


def load(build: Callable[[], Path], expected: EntriesOf) -> Weights:
    """Map a cached file that `build` returns the path of, and builds where it is absent.

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
            _mend(path, expected, error)
    raise AssertionError  # the last turn has returned or raised


def _mend(path: Path, expected: EntriesOf, error: CheckpointError) -> None:
    """Make way for building a cached file once more, if it was damaged after it was published, or is gone.

    One that cannot be read (no permission, no memory, a failing disk) may be whole, and stays.
    """
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.errno not in {errno.ENOENT, getattr(errno, "ESTALE", errno.ENOENT)}:
        with disk_errors(path, f"read {path}"):
            raise cause
    logger.warning("%s is damaged or gone (%s); it is built again", path, error.found)
    if not isinstance(cause, OSError):
        cache.remove_damaged(path, lambda taken: _map(taken, expected))


def _map(path: Path, expected: EntriesOf) -> Weights:
    def entries_of(header: SafetensorsHeader) -> Entries:
        _, shape = header.entries.get(f"{CLASSIFIER}.weight", ("", (0,)))
        return expected(shape[0])

    return map_safetensors(path, entries_of, str(path), torch.float32)


def fetch_into_cache(
    stem: str,
    urls: Sequence[str],
    stated: str,
    convert: Callable[[list[bytes], Path], bytes],
    *,
    max_bytes: int,
    progress: bool,
) -> Path:
    """Return the cached file of this stem; fetch, verify, convert and publish it if it is not there.

    Args:
        stem: of the file's name in the cache.
        urls: where to look, in order.
        stated: SHA-256 or the beginning of one; empty if none is known.
        convert: makes the safetensors' bytes of a list that holds the body, and the part that it came from.
        max_bytes: the largest body accepted.
        progress: show a bar on a terminal.

    Raises:
        DownloadError: the file cannot be had.
        CheckpointError: it is not the file stated, or `convert` refuses it.
        CacheError: the cache cannot be used.
        ConfigError: there is too little memory.

    """
    final = cache.model_path(stem)
    if cache.is_cached(stem):
        return final
    with cache.lock(stem):
        if not cache.is_cached(stem):  # another process may have been faster
            bodies, part = fetch_verified(stem, urls, stated, max_bytes=max_bytes, progress=progress)
            try:
                with raise_on_oom(f"convert {stem}", done=f"what was fetched stays in {part}", advice=ROOM):
                    _publish_in_place_of(part, stem, convert(bodies, part))
            except CheckpointError:
                discard(part)  # the host may have a better file next time
                raise
            discard(part)
            cache.sweep()
    return final


def fetch_verified(
    stem: str, urls: Sequence[str], stated: str, *, max_bytes: int, progress: bool
) -> tuple[list[bytes], Path]:
    """Fetch into a private part; return the very bytes that were hashed (in a list of one), and the part.

    The body is in a list so that who converts it can pop it: the peak is twice the file then, not three times.
    """
    # Only here: requests is slow to import, and urllib3 opens a socket when it is (is there IPv6?); a warm
    # load needs neither.
    from hrnet_zoo.weights.transfer import fetch

    part = cache.claim_part(stem)
    bodies: list[bytes] = []

    def verify(path: Path) -> None:
        bodies[:] = [path.read_bytes()]
        check_hash(bodies[0], stated, redact(urls[0]))

    fetch(urls, part, max_bytes=max_bytes, verify=verify, progress=progress)
    return bodies, part


def convert_checkpoint(
    bodies: list[bytes],
    source: str,
    expected: EntriesOf,
    provenance: Mapping[str, str],
    dtype: torch.dtype | None = None,
) -> bytes:
    """Turn a .pth, popped from a list of one, into a safetensors file with its provenance in the header.

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
    return to_safetensors(fit(state, expected(class_count(state, source)), source, dtype=dtype), header)


def provenance_of(body: bytes, claimed: Sequence[str], notes: str) -> dict[str, str]:
    """Return what a converted file's header says of the bytes that it was made from, and of the making.

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


def publish(stem: str, blob: bytes) -> None:
    """Write a converted file into the cache; it appears whole, and read back."""

    def write(file: BinaryIO) -> None:
        file.write(blob)

    cache.publish(stem, write, verify_data)


def _publish_in_place_of(part: Path, stem: str, blob: bytes) -> None:
    """Publish; where the disk is too full for the part and what was made of it, without the part."""
    try:
        publish(stem, blob)
    except CacheSpaceError as error:
        full = isinstance(error.__cause__, OSError) and error.__cause__.errno != errno.EFBIG
        if not full or shutil.disk_usage(part.parent).free + size_of(part) < len(blob):
            raise  # the part would go for nothing
        logger.info("%s: too little space for the download and the finished file at once", stem)
        discard(part)
        publish(stem, blob)


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
        raise _not_found(
            path, f"a file of {size:,} bytes; no checkpoint for these networks has more than {MOST_BYTES:,}"
        )


def _not_found(path: Path, found: str) -> CheckpointNotFoundError:
    return CheckpointNotFoundError(
        asked=f"the checkpoint {path}",
        found=found,
        done="nothing was loaded",
        advice="give the path of a .pth or .safetensors file",
        source=str(path),
    )


def entries(arch: str, num_classes: int) -> Entries:
    """Names and shapes of a network's state dict, without making its tensors."""
    with empty_layers():
        network = FCNHRNet(arch, CITYSCAPES)
    return with_classes({name: entry.shape for name, entry in network.state_dict().items()}, num_classes)


def with_classes(expected: Entries, count: int) -> Entries:
    """Give the classifier among these names and shapes another number of classes."""
    weight, bias = f"{CLASSIFIER}.weight", f"{CLASSIFIER}.bias"
    return {**expected, weight: torch.Size((count, *expected[weight][1:])), bias: torch.Size((count,))}


def size_limit(expected: Entries) -> int:
    """Bytes that a file of these entries in float32 can have at most: its tensors, 2 % and 4 MiB for the rest."""
    return int(1.02 * sum(4 * shape.numel() for shape in expected.values())) + (4 << 20)
