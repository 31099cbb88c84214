"""Catalog row -> state dict: download, verify, convert, cache and load the published files, and the bundled one."""

import functools
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit
from urllib.request import url2pathname

import safetensors.torch

from hrnet_zoo.errors import CacheError, CheckpointNotFoundError, HashMismatchError, raise_on_oom
from hrnet_zoo.images.atomic import atomic_write, make_folder
from hrnet_zoo.weights import cache
from hrnet_zoo.weights.addresses import addresses
from hrnet_zoo.weights.convert import (
    CONVERTER_VERSION,
    ROOM,
    Shapes,
    Weights,
    check_hash,
    convert_checkpoint,
    fetch_into_cache,
    fetch_verified,
    load,
    map_safetensors,
    network_shapes,
    publish,
    read_checkpoint,
    read_file,
    size_limit,
    verify_data,
)
from hrnet_zoo.zoo.catalog import DEMO, ModelInfo, model_info, recognize

logger = logging.getLogger("hrnet_zoo")


def load_published(info: ModelInfo, expected: Shapes, *, progress: bool) -> Weights:
    """Load a row's weights from the cache, after downloading them if need be.

    Args:
        info: the row.
        expected: names and shapes of the row's network.
        progress: show a bar for a download on a terminal.

    Returns:
        Memory-mapped float32 tensors, and the provenance in the file's header.

    Raises:
        DownloadError: the file cannot be downloaded.
        CheckpointError: it is not the file that the catalog states, or does not fit the network.
        CacheError: the cache cannot be used; the bundled file needs none.

    """
    try:
        state, header = load(functools.partial(download, info, expected, progress=progress), lambda _: expected)
    except CacheError as error:
        if info is not DEMO:
            raise
        logger.warning("%s is converted in memory: the cache cannot be used (%s)", info.name, error.found)
        path = Path(url2pathname(urlsplit(info.checkpoint_url).path))
        body = read_file(path)
        check_hash(body, info.stated_sha256, str(path))
        blob = _convert([body], str(path), info, expected)
        metadata = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])["__metadata__"]
        return safetensors.torch.load(blob), metadata
    _require_source(info, header, cache.path_of(cache_key(info)))
    return state, header


def verify_published(info: ModelInfo) -> None:
    """Raise CheckpointError unless a row's file is cached and intact: its data, its origin, its names and shapes."""
    path = cache.path_of(cache_key(info))
    try:
        verify_data(path)
    except CheckpointNotFoundError as error:
        error.advice = f"hrnet-zoo download {info.name}"
        raise
    expected = network_shapes(info.arch, info.num_classes)
    _, header = map_safetensors(path, lambda _: expected, str(path))
    _require_source(info, header, path)


def _require_source(info: ModelInfo, header: Mapping[str, str], path: Path) -> None:
    """Check that a cached file was converted from the file that the catalog states, which may know more by now."""
    found = header.get("source_sha256", "")
    if not found.startswith(info.stated_sha256):
        raise HashMismatchError(
            asked=f"use {path}",
            found=f"it was converted from a file with SHA-256 {found or 'unknown'}; the catalog states "
            f"{info.stated_sha256}",
            done="nothing was loaded or changed",
            advice="hrnet-zoo cache repair",
            source=str(path),
            expected=info.stated_sha256,
            actual=found,
            size=path.stat().st_size,
        )


def download(info: ModelInfo, expected: Shapes, *, progress: bool) -> Path:
    """Return the path of a row's converted weights in the cache, after downloading them if need be."""
    if cache.is_cached(cache_key(info)):  # then the settings of mirrors do not matter
        return cache.path_of(cache_key(info))
    return fetch_into_cache(
        cache_key(info),
        addresses(info.checkpoint_url),
        info.stated_sha256,
        lambda bodies: _convert(bodies, info.checkpoint_url, info, expected),
        max_bytes=size_limit(expected),
        progress=progress,
    )


def import_file(path: Path) -> tuple[ModelInfo, Path]:
    """Verify and convert a published file that was downloaded by hand; return its row and its path in the cache.

    Raises:
        CheckpointNotFoundError: there is no such file.
        CheckpointError: it is no checkpoint, or not safe to load; or it has a published file's name, but other content.
        UnknownModelError: it is none of the published files.
        ConfigError: out of memory.

    """
    with raise_on_oom(f"import {path}", done="nothing was imported", advice=ROOM):
        bodies = [read_file(path)]
        info = recognize(hashlib.sha256(bodies[0]).hexdigest())
        if info is None:
            read_checkpoint(bodies[0], str(path))  # a web page, a truncated or an unsafe file is reported as such
            info = model_info(path.name)
        check_hash(bodies[0], info.stated_sha256, str(path))
        key = cache_key(info)
        with cache.lock(key):
            publish(key, _convert(bodies, str(path), info, network_shapes(info.arch, info.num_classes)))
        return info, cache.path_of(key)


def mirror(info: ModelInfo, folder: Path, expected: Shapes, *, progress: bool) -> Path:
    """Download a row's original file, verified and unconverted, into a mirror folder; return its path there.

    Any web server can serve the folder as it is; `file://FOLDER` in HRNET_ZOO_MIRRORS works too.

    Raises:
        DownloadError: the file cannot be downloaded.
        CheckpointError: the file downloaded, or already there, is not the one that the catalog states.
        OutputError: the folder cannot be written.
        CacheError: the cache, where downloads begin, cannot be used.

    """
    final = folder / urlsplit(_published_address(info)).path.lstrip("/")
    if os.path.lexists(final):  # unlike Path.is_file, never raises, even for a name that is too long
        check_hash(read_file(final), info.stated_sha256, str(final))
        return final
    key, limit = cache_key(info), size_limit(expected)
    with cache.lock(key):
        urls = addresses(info.checkpoint_url)
        bodies, partial = fetch_verified(key, urls, info.stated_sha256, max_bytes=limit, progress=progress)
    make_folder(final.parent)
    atomic_write(final, bodies.pop())
    cache.discard(partial)
    return final


def cache_key(info: ModelInfo) -> str:
    """Return the name of a row's file in the cache: another file or another conversion has another key."""
    return f"{PurePosixPath(info.file_name).stem}-c{CONVERTER_VERSION}"


def _convert(bodies: list[bytes], source: str, info: ModelInfo, expected: Shapes) -> bytes:
    provenance = {"model": info.name, "source_url": _published_address(info)}
    return convert_checkpoint(bodies, source, lambda _: expected, provenance)


def _published_address(info: ModelInfo) -> str:
    """Return where the file was published; for the bundled file its name, not a path of this machine."""
    return info.checkpoint_url if info.checkpoint_url.startswith("https:") else info.file_name
