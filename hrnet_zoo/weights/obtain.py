"""row, path or address -> tensors: the whole way of a checkpoint, in one place.

    fetch -> SHA-256 -> static gate -> torch.load -> exact names and shapes -> safetensors -> rename -> memory map

Nothing is loaded before its hash is known where a hash is known. What was converted once is in the cache, and a
second call opens no connection.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import urlsplit

import torch
from torch import Tensor

from hrnet_zoo import __version__
from hrnet_zoo.catalog import ModelInfo, model_info, recognise
from hrnet_zoo.datasets import CITYSCAPES
from hrnet_zoo.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    HashMismatchError,
    StateDictMismatchError,
    UnknownModelError,
)
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.outputs import make_folder, write_file
from hrnet_zoo.weights import cache
from hrnet_zoo.weights.addresses import addresses, redact
from hrnet_zoo.weights.convert import (
    CONVERTER_VERSION,
    class_count,
    fit,
    load_safetensors,
    read_checkpoint,
    to_safetensors,
    verify_data,
)
from hrnet_zoo.weights.gate import inspect_safetensors
from hrnet_zoo.weights.part import discard
from hrnet_zoo.weights.transfer import fetch

CLASSIFIER = "decode_head.conv_seg"

# A training checkpoint of the reference holds two more copies of the weights (momentum) beside them.
OWN_FILE_FACTOR = 4

# Names and shapes of a network's state dict.
Entries = Mapping[str, torch.Size]
# A state dict and the provenance in its file's header.
Weights = tuple[dict[str, Tensor], dict[str, str]]

logger = logging.getLogger("hrnet_zoo")


def load_published(info: ModelInfo, expected: Entries, *, progress: bool) -> Weights:
    """Load a row's weights from the cache, into which they are brought first if need be.

    Args:
        info: the row.
        expected: names and shapes of the row's network.
        progress: show a bar for a download on a terminal.

    Returns:
        Memory-mapped float32 tensors, and the provenance in the file's header.

    Raises:
        DownloadError: the file cannot be had.
        CheckpointError: it is not the file that the row states, or does not fit the network.
        CacheError: the cache cannot be used.

    """
    path = prefetch(info, expected, progress=progress)
    try:
        return _load(path, expected)
    except CheckpointError as error:
        # Damaged after it was published, by something else than this library: rebuild once.
        logger.warning("%s is damaged (%s); it is removed and built again", path, error.found)
        cache.clear(cached_stem(info))
    return _load(prefetch(info, expected, progress=progress), expected)


def prefetch(info: ModelInfo, expected: Entries, *, progress: bool) -> Path:
    """Bring a row's weights into the cache, if they are not there yet; return the path of the safetensors."""
    stem = cached_stem(info)
    provenance = {"model": info.name, "source_url": _public_address(info)}
    dtype = getattr(torch, info.stored_dtype)
    return _fetch_into_cache(
        stem,
        addresses(info.checkpoint_url),
        info.sha256 or info.sha256_prefix,
        lambda data, source: _convert(data, source, lambda _: expected, provenance, dtype),
        max_bytes=size_limit(expected),
        progress=progress,
    )


def import_file(path: Path) -> tuple[ModelInfo, Path]:
    """Take a published file that was fetched by hand through the same steps; return its row and the cached path.

    Raises:
        CheckpointNotFoundError: there is no such file.
        HashMismatchError: its name is that of a row, its content is not.
        UnknownModelError: it is none of the published files.

    """
    data = read_file(path)
    digest = hashlib.sha256(data).hexdigest()
    info = recognise(digest)
    if info is None:
        try:
            named = model_info(path.name)
        except UnknownModelError as error:
            raise UnknownModelError(
                asked=f"import {path}",
                found=f"its SHA-256 is {digest}, which is that of no published file",
                done="the file was left as it is, nothing was imported",
                advice=f"load it into a network of your choice: create_model(NAME, checkpoint={str(path)!r})",
                name=path.name,
                nearest=(),
            ) from error
        check_hash(data, named.sha256 or named.sha256_prefix, str(path))
        raise AssertionError("a digest that fits its row is recognised")
    expected = entries(info.arch, info.num_classes)
    provenance = {"model": info.name, "source_url": _public_address(info)}
    dtype = getattr(torch, info.stored_dtype)
    stem = cached_stem(info)
    with cache.lock(stem):
        if not cache.model_path(stem).is_file():
            _publish(stem, _convert(data, str(path), lambda _: expected, provenance, dtype))
    return info, cache.model_path(stem)


def mirror(info: ModelInfo, folder: Path, expected: Entries, *, progress: bool) -> Path:
    """Fetch a row's published file, verified and unconverted, to its place below a mirror folder.

    The folder can be served as it is by any web server, or named as `file://...`, in HRNET_ZOO_MIRRORS.
    """
    final = folder / urlsplit(info.checkpoint_url).path.lstrip("/")
    if final.is_file():
        check_hash(read_file(final), info.sha256 or info.sha256_prefix, str(final))
        return final
    bodies, part = _fetch(
        cached_stem(info),
        addresses(info.checkpoint_url),
        info.sha256 or info.sha256_prefix,
        max_bytes=size_limit(expected),
        progress=progress,
    )
    make_folder(final.parent)
    write_file(final, bodies.pop())
    discard(part)
    return final


def load_own(source: str, info: ModelInfo, network: Entries, *, progress: bool) -> Weights:
    """Load a user's own checkpoint.

    Args:
        source: path or address of a .pth (either serialization, with or without `meta` and "module.") or .safetensors.
            Eight or more hex digits before an address's suffix are taken as the beginning of the file's SHA-256.
        info: the row whose network it is for.
        network: names and shapes of that network; the file may also have as many classes as the row.
        progress: show a bar for a download on a terminal.

    Returns:
        Float32 tensors, memory-mapped where the file is float32 safetensors or comes from the cache; provenance.

    Raises:
        CheckpointNotFoundError: there is no such file.
        CheckpointError: it is damaged, unsafe, or does not fit the network.
        DownloadError: it cannot be fetched.
        CacheError: the cache cannot be used.

    """

    def expected(count: int) -> Entries:
        asked = network[f"{CLASSIFIER}.weight"][0]
        if count not in (asked, info.num_classes):
            raise StateDictMismatchError(
                asked=f"load {redact(source)} into {info.name} with {asked} classes",
                found=f"the file's classifier has {count} classes",
                done="nothing was loaded",
                advice=f"name the file's classes: create_model({info.name!r}, checkpoint=..., classes=[{count} names])",
                source=redact(source),
                different=(f"{CLASSIFIER}.weight: {count} classes, expected {asked}",),
            )
        return with_classes(network, count)

    if "://" in source:
        path = _own_address(source, info, network, expected, progress)
    elif source.endswith(".safetensors"):
        return _own_safetensors(Path(source), expected)
    else:
        path = _own_file(Path(source), info, expected)
    header = inspect_safetensors(path, str(path))
    return _load(path, expected(header.entries[f"{CLASSIFIER}.weight"][1][0]))


def _own_address(
    address: str, info: ModelInfo, network: Entries, expected: Callable[[int], Entries], progress: bool
) -> Path:
    name = PurePosixPath(urlsplit(address).path).name
    stated = re.search(r"-([0-9a-f]{8,64})\.\w+$", name)
    mark = stated[1][:16] if stated else hashlib.sha256(address.encode()).hexdigest()[:16]
    if not stated:
        logger.warning("%s states no SHA-256 in its name: what is fetched now cannot be checked", redact(address))
    return _fetch_into_cache(
        f"{_plain(name)}-{info.arch}-{mark}-c{CONVERTER_VERSION}",
        [address],
        stated[1] if stated else "",
        lambda data, source: _convert(data, source, expected, {"model": info.name, "source_url": redact(address)}),
        max_bytes=OWN_FILE_FACTOR * size_limit(network),
        progress=progress,
    )


def _own_file(path: Path, info: ModelInfo, expected: Callable[[int], Entries]) -> Path:
    data = read_file(path)
    stem = f"{_plain(path.name)}-{info.arch}-{hashlib.sha256(data).hexdigest()[:16]}-c{CONVERTER_VERSION}"
    with cache.lock(stem):
        if not cache.model_path(stem).is_file():
            # Only the name: a header that travels with the weights tells nobody the user's folders.
            _publish(stem, _convert(data, str(path), expected, {"model": info.name, "source_url": path.name}))
    return cache.model_path(stem)


def _own_safetensors(path: Path, expected: Callable[[int], Entries]) -> Weights:
    header = inspect_safetensors(path, str(path))
    found = {name: torch.Size(shape) for name, (_, shape) in header.entries.items()}
    state = load_safetensors(path, found, str(path))
    return fit(state, expected(class_count(state, str(path))), str(path)), header.metadata


def _load(path: Path, expected: Entries) -> Weights:
    return load_safetensors(path, expected, str(path)), inspect_safetensors(path, str(path)).metadata


def _fetch_into_cache(
    stem: str,
    urls: Sequence[str],
    stated: str,
    convert: Callable[[bytes, str], bytes],
    *,
    max_bytes: int,
    progress: bool,
) -> Path:
    """Return the cached safetensors of this stem; fetch, verify, convert and publish it if it is not there."""
    final = cache.model_path(stem)
    if final.is_file():
        return final
    with cache.lock(stem):
        if not final.is_file():  # another process may have been faster
            bodies, part = _fetch(stem, urls, stated, max_bytes=max_bytes, progress=progress)
            # Popped, so that the body can go as soon as it is loaded: the peak is twice the file, not three times.
            _publish(stem, convert(bodies.pop(), redact(urls[0])))
            discard(part)
            cache.sweep()
    return final


def _fetch(stem: str, urls: Sequence[str], stated: str, *, max_bytes: int, progress: bool) -> tuple[list[bytes], Path]:
    """Fetch into a private part; return the very bytes that were hashed (in a list of one), and the part."""
    part = cache.claim_part(stem)
    bodies: list[bytes] = []

    def verify(path: Path) -> None:
        bodies[:] = [path.read_bytes()]
        check_hash(bodies[0], stated, redact(urls[0]))

    fetch(urls, part, max_bytes=max_bytes, verify=verify, progress=progress)
    return bodies, part


def _convert(
    data: bytes,
    source: str,
    expected: Callable[[int], Entries],
    provenance: Mapping[str, str],
    dtype: torch.dtype | None = None,
) -> bytes:
    """Turn the bytes of a checkpoint into those of a safetensors file with its provenance in the header."""
    header = {
        **provenance,
        "source_sha256": hashlib.sha256(data).hexdigest(),
        "source_size": str(len(data)),
        "converter_version": str(CONVERTER_VERSION),
        "hrnet_zoo_version": __version__,
    }
    state = read_checkpoint(data, source)
    del data
    return to_safetensors(fit(state, expected(class_count(state, source)), source, dtype=dtype), header)


def _publish(stem: str, blob: bytes) -> None:
    def write(file: BinaryIO) -> None:
        file.write(blob)

    cache.publish(stem, write, verify_data)


def check_hash(data: bytes, stated: str, source: str) -> None:
    """Compare a file with the SHA-256, or the beginning of one, that its row or its name states.

    Raises:
        HashMismatchError: they differ.

    """
    digest = hashlib.sha256(data).hexdigest()
    if not digest.startswith(stated):
        raise HashMismatchError(
            asked=f"the checkpoint {source}",
            found=f"SHA-256 {digest} of {len(data):,} bytes; expected {stated}{'...' if len(stated) < 64 else ''}",
            done="the file was not loaded and nothing was added to the cache",
            advice="fetch it again or from another mirror (HRNET_ZOO_MIRRORS); "
            "if it comes out the same, the published file has changed: please report the digest above",
            source=source,
            expected=stated,
            actual=digest,
            size=len(data),
        )


def read_file(path: Path) -> bytes:
    """Read a checkpoint that the user named.

    Raises:
        CheckpointNotFoundError: there is no regular, readable file of a sensible size.

    """
    try:
        if path.is_file():
            return path.read_bytes()
        found = "a folder or special file" if path.exists() else "no such file"
    except OSError as error:
        found = error.strerror or str(error)
    raise CheckpointNotFoundError(
        asked=f"the checkpoint {path}",
        found=found,
        done="nothing was loaded",
        advice="give the path of a .pth or .safetensors file",
        source=str(path),
    )


def entries(arch: str, num_classes: int) -> Entries:
    """Names and shapes of a network's state dict, without making its tensors."""
    with torch.device("meta"):
        network = FCNHRNet(arch, CITYSCAPES)
    return with_classes({name: entry.shape for name, entry in network.state_dict().items()}, num_classes)


def with_classes(expected: Entries, count: int) -> Entries:
    """Give the classifier among these names and shapes another number of classes."""
    weight, bias = f"{CLASSIFIER}.weight", f"{CLASSIFIER}.bias"
    return {**expected, weight: torch.Size((count, *expected[weight][1:])), bias: torch.Size((count,))}


def size_limit(expected: Entries) -> int:
    """Bytes that a file of these entries in float32 can have at most: its tensors, 2 % and 4 MiB for the rest."""
    return int(1.02 * sum(4 * shape.numel() for shape in expected.values())) + (4 << 20)


def cached_stem(info: ModelInfo) -> str:
    """Name of a row's file in the cache: new content, or a new conversion, has a new name."""
    return f"{PurePosixPath(info.file_name).stem}-c{CONVERTER_VERSION}"


def _public_address(info: ModelInfo) -> str:
    """Where the file was published; for the bundled one its name, not the user's folders."""
    return info.checkpoint_url if info.checkpoint_url.startswith("https:") else info.file_name


def _plain(name: str) -> str:
    """Reduce a foreign file name to what the cache allows."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", PurePosixPath(name).stem)[:60]
