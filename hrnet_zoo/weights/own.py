"""A user's own checkpoint, by path or address -> state dict."""

import functools
import hashlib
import logging
import re
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import torch

from hrnet_zoo.catalog import ModelInfo
from hrnet_zoo.errors import StateDictMismatchError
from hrnet_zoo.weights import cache
from hrnet_zoo.weights.addresses import redact
from hrnet_zoo.weights.build import (
    CLASSIFIER,
    Entries,
    EntriesOf,
    Weights,
    convert_checkpoint,
    fetch_into_cache,
    load,
    provenance_of,
    publish,
    read_file,
    size_limit,
    with_classes,
)
from hrnet_zoo.weights.convert import CONVERTER_VERSION, class_count, fit, load_safetensors, to_safetensors
from hrnet_zoo.weights.gate import inspect_safetensors

# A training checkpoint of the reference holds two more copies of the weights (momentum) beside them.
SIZE_FACTOR = 4

logger = logging.getLogger("hrnet_zoo")


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
        max_bytes = SIZE_FACTOR * size_limit(network)
        build = functools.partial(_from_address, source, info, expected, max_bytes=max_bytes, progress=progress)
    elif source.endswith(".safetensors"):
        return _safetensors(Path(source), source, expected)
    else:
        build = functools.partial(_from_file, Path(source), info, expected)
    return load(build, expected)


def _from_address(address: str, info: ModelInfo, expected: EntriesOf, *, max_bytes: int, progress: bool) -> Path:
    """Return the cached file of an address; fetch and convert it if it is not there."""
    name = PurePosixPath(urlsplit(address).path).name
    stated = re.search(r"-([0-9a-f]{8,64})\.\w+$", name)
    if not stated:
        logger.warning("%s states no SHA-256 in its name: what is fetched now cannot be checked", redact(address))
    provenance = {"model": info.name, "source_url": redact(address)}

    def convert(bodies: list[bytes], part: Path) -> bytes:
        if name.endswith(".safetensors"):
            state, _ = _safetensors(part, redact(address), expected)
            return to_safetensors(state, {**provenance, **provenance_of(bodies.pop())})
        return convert_checkpoint(bodies, redact(address), expected, provenance)

    mark = stated[1] if stated else hashlib.sha256(address.encode()).hexdigest()
    stem, known = _stem(name, info, mark), stated[1] if stated else ""
    return fetch_into_cache(stem, [address], known, convert, max_bytes=max_bytes, progress=progress)


def _from_file(path: Path, info: ModelInfo, expected: EntriesOf) -> Path:
    """Return the cached file of a .pth with these very bytes; convert it if it is not there."""
    bodies = [read_file(path)]
    stem = _stem(path.name, info, hashlib.sha256(bodies[0]).hexdigest())
    # Only the name: a header that travels with the weights tells nobody the user's folders.
    provenance = {"model": info.name, "source_url": path.name}
    with cache.lock(stem):
        if not cache.model_path(stem).is_file():
            publish(stem, convert_checkpoint(bodies, str(path), expected, provenance))
    return cache.model_path(stem)


def _safetensors(path: Path, source: str, expected: EntriesOf) -> Weights:
    header = inspect_safetensors(path, source)
    found = {name: torch.Size(shape) for name, (_, shape) in header.entries.items()}
    state = load_safetensors(path, found, source)
    return fit(state, expected(class_count(state, source)), source), header.metadata


def _stem(name: str, info: ModelInfo, mark: str) -> str:
    """Name a file in the cache after a foreign one, in the characters that the cache allows."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", PurePosixPath(name).stem)[:60].lstrip("-") or "checkpoint"
    return f"{plain}-{info.arch}-{mark[:16]}-c{CONVERTER_VERSION}"
