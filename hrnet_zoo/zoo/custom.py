"""Path or address of a custom checkpoint -> state dict."""

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
from hrnet_zoo.weights.convert import (
    CONVERTER_VERSION,
    ROOM,
    Shapes,
    ShapesOf,
    Weights,
    claimed_classes,
    convert_checkpoint,
    fetch_into_cache,
    load,
    map_safetensors,
    provenance_of,
    publish,
    read_file,
    require_size,
    size_limit,
    to_safetensors,
)
from hrnet_zoo.weights.scan import SafetensorsHeader, inspect_safetensors, is_safetensors
from hrnet_zoo.weights.state_dict import CLASSIFIER, class_count, fit_state, unwrap
from hrnet_zoo.zoo.model_config import CONFIG_KEY

# Training checkpoints hold up to two more copies of the weights, in the optimizer's state.
SIZE_FACTOR = 4
# Eight or more hex digits before the extension are a file's hash; without a letter, a date or a number of steps
# (1 of 43 hashes has no letter, and is not checked).
STATED_HASH = re.compile(r"-((?=\d*[a-f])[0-9a-f]{8,64})\.\w+$")

logger = logging.getLogger("hrnet_zoo")


def load_custom(source: str, arch: str, network: Shapes, *, progress: bool) -> Weights:
    """Load a custom checkpoint; where tensors were renamed or ignored, one log line says which.

    Args:
        source: path or address of a checkpoint: written by `torch.save` (either serialization, with whatever lies
            beside the weights) or safetensors; the content decides which. Eight or more hex digits before an address's
            extension, at least one of them a letter, are taken for the beginning of the file's SHA-256.
        arch: the network's; part of the cache key.
        network: names and shapes that the file must have.
        progress: show a bar for a download on a terminal.

    Returns:
        Float32 tensors, memory-mapped where the file is in the cache; and the provenance in its header.

    Raises:
        CheckpointNotFoundError: there is no such file.
        CheckpointError: it is damaged, unsafe, or does not fit the network.
        DownloadError: it cannot be downloaded.
        CacheError: the cache cannot be used.

    """

    def expected(count: int) -> Shapes:
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
        build = functools.partial(_download, source, arch, expected, max_bytes=max_bytes, progress=progress)
        state, provenance = load(build, expected)
    elif _is_safetensors(Path(source)):
        state, provenance = _load_safetensors(Path(source), expected)
    else:
        state, provenance = load(functools.partial(_convert_file, Path(source), arch, expected), expected)
    if notes := provenance.get("file_notes"):
        logger.warning("%s: %s", redact(source), notes)
    return state, provenance


def _download(address: str, arch: str, expected: ShapesOf, *, max_bytes: int, progress: bool) -> Path:
    """Return the cached file of an address, after downloading and converting it if need be."""
    name = PurePosixPath(urlsplit(address).path).name
    match = STATED_HASH.search(name)
    stated = match[1] if match else ""
    provenance = {"source_url": redact(address)}

    def convert(bodies: list[bytes]) -> bytes:
        if not stated:
            logger.warning("%s has no SHA-256 in its name: the download could not be verified", redact(address))
        if not is_safetensors(bodies[0]):
            return convert_checkpoint(bodies, redact(address), expected, provenance)
        claimed = claimed_classes(inspect_safetensors(bodies[0], redact(address)).metadata)
        stored = safetensors.torch.load(bodies[0])
        state, notes = unwrap(stored, stored.__getitem__)
        fitted = fit_state(state, expected(class_count(state, redact(address))), redact(address))
        return to_safetensors(fitted, {**provenance, **provenance_of(bodies.pop(), claimed, notes)})

    # Another file with the same few digits is found in minutes: only a whole digest is shared between addresses.
    digest = stated if len(stated) == 64 else hashlib.sha256(address.encode()).hexdigest()
    return fetch_into_cache(
        _cache_key(name.partition(";")[0], arch, digest),
        addresses(address),
        stated,
        convert,
        max_bytes=max_bytes,
        progress=progress,
    )


def _convert_file(path: Path, arch: str, expected: ShapesOf) -> Path:
    """Return the cached file of a local .pth with exactly these bytes, after converting it if need be."""
    with raise_on_oom(f"convert {path}", done="nothing was loaded", advice=ROOM):
        bodies = [read_file(path)]
        key = _cache_key(path.name, arch, hashlib.sha256(bodies[0]).hexdigest())
        with cache.lock(key):
            if not cache.is_cached(key):
                # The name alone: the header travels with the weights, and must not tell the user's folders.
                publish(key, convert_checkpoint(bodies, str(path), expected, {"source_url": path.name}))
    return cache.model_path(key)


def _is_safetensors(path: Path) -> bool:
    """Look into a local file, whatever its name; errors are left to its reader."""
    try:
        if path.is_file():  # before open(), which would block on a pipe
            with path.open("rb") as file:
                return is_safetensors(file.read(512))
    except (OSError, ValueError):  # ValueError: a null character in the path
        pass
    return path.suffix == ".safetensors"


def _load_safetensors(path: Path, expected: ShapesOf) -> Weights:
    def shapes_in(header: SafetensorsHeader) -> Shapes:
        require_size(header.size)
        return {name: torch.Size(shape) for name, (_, shape) in header.entries.items()}

    stored, metadata = map_safetensors(path, shapes_in, str(path), rewritable=True)
    state, notes = unwrap(stored, stored.__getitem__)
    unverified = {key: value for key, value in metadata.items() if key != CONFIG_KEY}
    return fit_state(state, expected(class_count(state, str(path))), str(path)), {**unverified, "file_notes": notes}


def _cache_key(name: str, arch: str, digest: str) -> str:
    """Return a cache key that begins like the file's name, in the characters that keys allow."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", PurePosixPath(name).stem)[:60].lstrip("-") or "checkpoint"
    return f"{plain}-{arch}-{digest[:16]}-c{CONVERTER_VERSION}"
