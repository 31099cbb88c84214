"""Path or address of a custom checkpoint -> state dict."""

import hashlib
import logging
import re
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import safetensors.torch

from hrnet_zoo.errors import StateDictMismatchError, raise_on_oom, redact
from hrnet_zoo.weights import cache
from hrnet_zoo.weights.addresses import addresses
from hrnet_zoo.weights.convert import (
    CONVERTER_VERSION,
    ROOM,
    Shapes,
    Weights,
    claimed_classes,
    convert_checkpoint,
    fetch_into_cache,
    load,
    provenance_of,
    publish,
    read_file,
    size_limit,
    to_safetensors,
)
from hrnet_zoo.weights.scan import inspect_safetensors, is_safetensors
from hrnet_zoo.weights.state_dict import CLASSIFIER, class_count, fit_state, unwrap

# Training checkpoints hold up to two more copies of the weights, in the optimizer's state.
SIZE_FACTOR = 4
# Eight or more hex digits before the extension are a file's hash; without a letter, a date or a number of steps
# (1 of 43 hashes has no letter, and is not checked).
STATED_HASH = re.compile(r"-((?=\d*[a-f])[0-9a-f]{8,64})\.\w+$")

logger = logging.getLogger("hrnet_zoo")


def load_custom(source: str, arch: str, network: Shapes, *, progress: bool) -> Weights:
    """Load a custom checkpoint through the cache; where tensors were renamed or ignored, one log line says which.

    Args:
        source: path or address of a checkpoint: written by `torch.save` (either serialization, with whatever lies
            beside the weights) or safetensors; the content decides which. Eight or more hex digits before an address's
            extension, at least one of them a letter, are taken for the beginning of the file's SHA-256.
        arch: the network's; part of the cache key.
        network: names and shapes that the file must have.
        progress: show a bar for a download on a terminal.

    Returns:
        Memory-mapped float32 tensors, and the provenance in the cached file's header.

    Raises:
        CheckpointNotFoundError: there is no such file.
        CheckpointError: it is damaged, unsafe, or does not fit the network.
        DownloadError: it cannot be downloaded.
        CacheError: the cache cannot be used.

    """
    shown = redact(source)

    def expected(count: int) -> Shapes:
        asked = network[f"{CLASSIFIER}.weight"][0]
        if count != asked:
            raise StateDictMismatchError(
                asked=f"load {shown} into a network with {asked} classes",
                found=f"the file's classifier has {count} classes",
                done="nothing was loaded",
                advice=f"name the file's own classes: create_model(..., classes=[{count} names])",
                source=shown,
                different=(f"{CLASSIFIER}.weight: {count} classes, expected {asked}",),
            )
        return network

    def convert(bodies: list[bytes], address: str) -> bytes:
        provenance = {"source_url": address}
        if not is_safetensors(bodies[0]):
            return convert_checkpoint(bodies, shown, expected, provenance)
        body = bodies.pop()
        claimed = claimed_classes(inspect_safetensors(body, shown).metadata)
        stored = safetensors.torch.load(body)
        state, notes = unwrap(stored, stored.__getitem__)
        header = {**provenance, **provenance_of(body, claimed, notes)}
        return to_safetensors(fit_state(state, expected(class_count(state, shown)), shown), header)

    def download() -> Path:
        name = PurePosixPath(urlsplit(source).path).name
        match = STATED_HASH.search(name)
        stated = match[1] if match else ""

        def convert_download(bodies: list[bytes]) -> bytes:
            if not stated:
                logger.warning("%s has no SHA-256 in its name: the download could not be verified", shown)
            return convert(bodies, shown)

        # Another file with the same few digits is found in minutes: only a whole digest is shared between addresses.
        digest = stated if len(stated) == 64 else hashlib.sha256(source.encode()).hexdigest()
        return fetch_into_cache(
            _cache_key(name.partition(";")[0], arch, digest),
            addresses(source),
            stated,
            convert_download,
            max_bytes=SIZE_FACTOR * size_limit(network),
            progress=progress,
        )

    def read() -> Path:
        path = Path(source)
        with raise_on_oom(f"convert {path}", done="nothing was loaded", advice=ROOM):
            bodies = [read_file(path)]
            key = _cache_key(path.name, arch, hashlib.sha256(bodies[0]).hexdigest())
            with cache.lock(key):
                if not cache.is_cached(key):
                    # The name alone: the header travels with the weights, and must not tell the user's folders.
                    publish(key, convert(bodies, path.name))
        return cache.path_of(key)

    state, provenance = load(download if "://" in source else read, expected)
    if notes := provenance.get("file_notes"):
        logger.warning("%s: %s", shown, notes)
    return state, provenance


def _cache_key(name: str, arch: str, digest: str) -> str:
    """Return a cache key that begins like the file's name, in the characters that keys allow."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", PurePosixPath(name).stem)[:60].lstrip("-") or "checkpoint"
    return f"{plain}-{arch}-{digest[:16]}-c{CONVERTER_VERSION}"
