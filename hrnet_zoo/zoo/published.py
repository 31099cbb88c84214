"""row -> state dict: the published files, and the bundled one."""

import contextlib
import functools
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit
from urllib.request import url2pathname

import safetensors.torch
import torch

from hrnet_zoo.errors import CacheError, HashMismatchError, UnknownModelError, raise_on_oom
from hrnet_zoo.images.atomic import atomic_write, make_folder
from hrnet_zoo.weights import cache
from hrnet_zoo.weights.addresses import addresses
from hrnet_zoo.weights.build import (
    ROOM,
    Entries,
    Weights,
    check_hash,
    convert_checkpoint,
    entries,
    fetch_into_cache,
    fetch_verified,
    load,
    publish,
    read_file,
    size_limit,
)
from hrnet_zoo.weights.convert import CONVERTER_VERSION, read_checkpoint
from hrnet_zoo.weights.gate import inspect_safetensors
from hrnet_zoo.weights.part import discard
from hrnet_zoo.zoo import first_seen
from hrnet_zoo.zoo.catalog import DEMO, ModelInfo, list_models, model_info, recognize
from hrnet_zoo.zoo.first_seen import Digest

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
        CacheError: the cache cannot be used; the bundled file needs none.

    """
    try:
        state, header = load(functools.partial(prefetch, info, expected, progress=progress), lambda _: expected)
    except CacheError as error:
        if info is not DEMO:
            raise
        logger.warning("%s is converted in memory: the cache cannot be used (%s)", info.name, error.found)
        return _converted_in_memory(info, expected)
    # A cached file may be older than the digest that is known now.
    path = cache.model_path(cached_stem(info))
    first_seen.require(first_seen.known(info), header.get("source_sha256", ""), str(path))
    return state, header


def _converted_in_memory(info: ModelInfo, expected: Entries) -> Weights:
    path = Path(url2pathname(urlsplit(info.checkpoint_url).path))
    body = read_file(path)
    check_hash(body, info.sha256 or info.sha256_prefix, str(path))
    blob = _convert([body], str(path), info, expected)
    return safetensors.torch.load(blob), _header(blob)


def prefetch(info: ModelInfo, expected: Entries, *, progress: bool) -> Path:
    """Bring a row's weights into the cache, if they are not there yet; return the path of the safetensors."""
    if cache.is_cached(cached_stem(info)):
        return cache.model_path(cached_stem(info))
    with _stated(info) as stated:
        return fetch_into_cache(
            cached_stem(info),
            addresses(info.checkpoint_url),
            stated,
            lambda bodies, _: _convert(bodies, info.checkpoint_url, info, expected),
            max_bytes=size_limit(expected),
            progress=progress,
        )


def import_file(path: Path) -> tuple[ModelInfo, Path]:
    """Take a published file that was fetched by hand through the same steps; return its row and the cached path.

    Raises:
        CheckpointNotFoundError: there is no such file.
        CheckpointFormatError, UnsafeCheckpointError: it is no checkpoint, or one that nobody should load.
        HashMismatchError: its name is that of a row, its content is not; or another file was accepted before.
        UnknownModelError: it is none of the published files.
        ConfigError: there is too little memory.

    """
    with raise_on_oom(f"import {path}", done="nothing was imported", advice=ROOM):
        return _import(path, [read_file(path)])


def _import(path: Path, bodies: list[bytes]) -> tuple[ModelInfo, Path]:
    digest = hashlib.sha256(bodies[0]).hexdigest()
    info = recognize(digest)
    if info is None:
        read_checkpoint(bodies[0], str(path))  # a page, a torso or a trap is called by its name
        info = _row_named(path, digest)
    with _stated(info) as stated:
        check_hash(bodies[0], stated, str(path))
    stem = cached_stem(info)
    with cache.lock(stem):  # always anew, whatever the state of what lies there
        publish(stem, _convert(bodies, str(path), info, entries(info.arch, info.num_classes)))
    return info, cache.model_path(stem)


def mirror(info: ModelInfo, folder: Path, expected: Entries, *, progress: bool) -> Path:
    """Fetch a row's published file, verified and unconverted, to its place below a mirror folder; return its path.

    The folder can be served as it is by any web server, or named as `file://...`, in HRNET_ZOO_MIRRORS.

    Raises:
        DownloadError: the file cannot be had.
        CheckpointError: what was fetched, or lies in its place already, is not the file that the row states.
        OutputError: the folder cannot be written.
        CacheError: the cache, where a download begins, cannot be used.

    """
    final = folder / urlsplit(_public_address(info)).path.lstrip("/")
    with _stated(info) as stated:
        if os.path.lexists(final):  # never raises, as Path.is_file does for a name too long
            check_hash(read_file(final), stated, str(final))
            return final
        bodies, part = fetch_verified(
            cached_stem(info),
            addresses(info.checkpoint_url),
            stated,
            max_bytes=size_limit(expected),
            progress=progress,
        )
    make_folder(final.parent)
    atomic_write(final, bodies.pop())
    discard(part)
    return final


def record_cached() -> list[Digest]:
    """Record the digests of published files that were converted before there were records; tell what is known of all.

    Raises:
        CheckpointFormatError: a cached file is damaged.
        CacheError: the cache cannot be read or written.

    """
    for info in map(model_info, list_models()):
        path = cache.model_path(cached_stem(info))
        if cache.is_cached(cached_stem(info)) and first_seen.known(info).authority == "prefix":
            first_seen.record(info, inspect_safetensors(path, str(path)).metadata.get("source_sha256", ""), str(path))
    return first_seen.every()


def cached_stem(info: ModelInfo) -> str:
    """Name of a row's file in the cache: new content, or a new conversion, has a new name."""
    return f"{PurePosixPath(info.file_name).stem}-c{CONVERTER_VERSION}"


def _convert(bodies: list[bytes], source: str, info: ModelInfo, expected: Entries) -> bytes:
    provenance = {"model": info.name, "source_url": _public_address(info)}
    dtype = getattr(torch, info.stored_dtype)
    blob = convert_checkpoint(bodies, source, lambda _: expected, provenance, dtype)
    # It is accepted: from now on, this is the file.
    first_seen.record(info, _header(blob)["source_sha256"], source)
    return blob


def _header(blob: bytes) -> dict[str, str]:
    metadata: dict[str, str] = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])["__metadata__"]
    return metadata


@contextlib.contextmanager
def _stated(info: ModelInfo) -> Iterator[str]:
    """Give what a row's file must hash to; a mismatch says so if that is what was recorded here."""
    known = first_seen.known(info)
    try:
        yield known.sha256
    except HashMismatchError as error:
        if known.authority == "recorded" and error.expected == known.sha256:
            error.found += " (recorded when such a file was first accepted here)"
            error.advice = first_seen.advice_for(known)
        raise


def _public_address(info: ModelInfo) -> str:
    """Where the file was published; for the bundled one its name, not the user's folders."""
    return info.checkpoint_url if info.checkpoint_url.startswith("https:") else info.file_name


def _row_named(path: Path, digest: str) -> ModelInfo:
    """Find the row whose file has the name of this one, for want of one with its digest."""
    try:
        return model_info(path.name)
    except UnknownModelError as error:
        raise UnknownModelError(
            asked=f"import {path}",
            found=f"its SHA-256 is {digest}, which is that of no published file",
            done="the file was left as it is, nothing was imported",
            advice=f"load it into a network of your choice: create_model(NAME, checkpoint={str(path)!r})",
            name=path.name,
            nearest=(),
        ) from error
