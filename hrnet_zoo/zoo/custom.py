"""A user's own checkpoint, by path or address -> state dict."""

import functools
import hashlib
import logging
import re
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import safetensors.torch
import torch

from hrnet_zoo.errors import StateDictMismatchError, raise_on_oom, redact
from hrnet_zoo.weights import cache
from hrnet_zoo.weights.addresses import addresses
from hrnet_zoo.weights.build import (
    ROOM,
    Entries,
    EntriesOf,
    Weights,
    convert_checkpoint,
    fetch_into_cache,
    load,
    provenance_of,
    publish,
    read_file,
    require_size,
    size_limit,
)
from hrnet_zoo.weights.convert import CONVERTER_VERSION, claimed_classes, class_count, fit, to_safetensors, unwrapped
from hrnet_zoo.weights.gate import SafetensorsHeader, inspect_safetensors, is_safetensors
from hrnet_zoo.weights.mapping import map_safetensors
from hrnet_zoo.weights.state_dict import CLASSIFIER
from hrnet_zoo.zoo.model_config import CONFIG_KEY

# A training checkpoint of the reference holds two more copies of the weights (momentum) beside them.
SIZE_FACTOR = 4
# Eight or more hex digits before the ending state a file's hash; without a letter they are a date or a number of steps
# (1 of 43 hashes begins so, and goes unchecked).
STATED_HASH = re.compile(r"-((?=\d*[a-f])[0-9a-f]{8,64})\.\w+$")

logger = logging.getLogger("hrnet_zoo")


def load_own(source: str, arch: str, network: Entries, *, progress: bool) -> Weights:
    """Load a user's own checkpoint; one log line says which of its tensors were taken, where there is something to say.

    Args:
        source: path or address of a checkpoint: what `torch.save` wrote (either serialization, with whatever lies
            beside the weights) or safetensors; the content tells which. Eight or more hex digits before an address's
            ending, a letter among them, are taken as the beginning of the file's SHA-256.
        arch: the network's, to tell cached files apart.
        network: names and shapes that the file must have.
        progress: show a bar for a download on a terminal.

    Returns:
        Float32 tensors, memory-mapped where the file comes from the cache; and what its header says of itself.

    Raises:
        CheckpointNotFoundError: there is no such file.
        CheckpointError: it is damaged, unsafe, or does not fit the network.
        DownloadError: it cannot be fetched.
        CacheError: the cache cannot be used.

    """

    def expected(count: int) -> Entries:
        asked = network[f"{CLASSIFIER}.weight"][0]
        if count != asked:
            raise StateDictMismatchError(
                asked=f"load {redact(source)} into a network with {asked} classes",
                found=f"the file's classifier has {count} classes",
                done="nothing was loaded",
                advice=f"name the file's own classes: create_model(..., classes=[{count} names])",
                source=redact(source),
                different=(f"{CLASSIFIER}.weight: {count} classes, expected {asked}",),
            )
        return network

    if "://" in source:
        max_bytes = SIZE_FACTOR * size_limit(network)
        build = functools.partial(_from_address, source, arch, expected, max_bytes=max_bytes, progress=progress)
        state, provenance = load(build, expected)
    elif _holds_safetensors(Path(source)):
        state, provenance = _from_safetensors(Path(source), expected)
    else:
        state, provenance = load(functools.partial(_from_file, Path(source), arch, expected), expected)
    if notes := provenance.get("file_notes"):
        logger.warning("%s: %s", redact(source), notes)
    return state, provenance


def _from_address(address: str, arch: str, expected: EntriesOf, *, max_bytes: int, progress: bool) -> Path:
    """Return the cached file of an address; fetch and convert it if it is not there."""
    name = PurePosixPath(urlsplit(address).path).name
    stated = STATED_HASH.search(name)
    provenance = {"source_url": redact(address)}

    def convert(bodies: list[bytes], part: Path) -> bytes:
        if not stated:
            logger.warning("%s states no SHA-256 in its name: what was fetched could not be checked", redact(address))
        if not is_safetensors(bodies[0]):
            return convert_checkpoint(bodies, redact(address), expected, provenance)
        claimed = claimed_classes(inspect_safetensors(part, redact(address)).metadata)
        stored = safetensors.torch.load(bodies[0])
        state, notes = unwrapped(stored, stored.__getitem__)
        fitted = fit(state, expected(class_count(state, redact(address))), redact(address))
        return to_safetensors(fitted, {**provenance, **provenance_of(bodies.pop(), claimed, notes)})

    # A few digits of a hash are forged in minutes: what one host served under them is not another's file.
    mark = stated[1] if stated and len(stated[1]) == 64 else hashlib.sha256(address.encode()).hexdigest()
    return fetch_into_cache(
        _stem(name.partition(";")[0], arch, mark),
        addresses(address),
        stated[1] if stated else "",
        convert,
        max_bytes=max_bytes,
        progress=progress,
    )


def _from_file(path: Path, arch: str, expected: EntriesOf) -> Path:
    """Return the cached file of a .pth with these very bytes; convert it if it is not there."""
    with raise_on_oom(f"convert {path}", done="nothing was loaded", advice=ROOM):
        bodies = [read_file(path)]
        stem = _stem(path.name, arch, hashlib.sha256(bodies[0]).hexdigest())
        with cache.lock(stem):
            if not cache.is_cached(stem):
                # Only the name: a header that travels with the weights tells nobody the user's folders.
                publish(stem, convert_checkpoint(bodies, str(path), expected, {"source_url": path.name}))
    return cache.model_path(stem)


def _holds_safetensors(path: Path) -> bool:
    """Look into a file, whatever its name; what cannot be read is for the reader to say."""
    try:
        if path.is_file():  # before open(), which would wait for the writer of a pipe
            with path.open("rb") as file:
                return is_safetensors(file.read(512))
    except (OSError, ValueError):  # ValueError: a null character in the path
        pass
    return path.suffix == ".safetensors"


def _from_safetensors(path: Path, expected: EntriesOf) -> Weights:
    """Load a local safetensors file as it is."""

    def as_found(header: SafetensorsHeader) -> Entries:
        require_size(header.size, path)
        return {name: torch.Size(shape) for name, (_, shape) in header.entries.items()}

    stored, metadata = map_safetensors(path, as_found, str(path), rewritable=True)
    state, notes = unwrapped(stored, stored.__getitem__)
    foreign = {key: value for key, value in metadata.items() if key != CONFIG_KEY}  # which nobody has checked
    return fit(state, expected(class_count(state, str(path))), str(path)), {**foreign, "file_notes": notes}


def _stem(name: str, arch: str, mark: str) -> str:
    """Name a file in the cache after a foreign one, in the characters that the cache allows."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", PurePosixPath(name).stem)[:60].lstrip("-") or "checkpoint"
    return f"{plain}-{arch}-{mark[:16]}-c{CONVERTER_VERSION}"
