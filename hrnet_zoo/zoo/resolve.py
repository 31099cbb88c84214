"""What `create_model` is given -> configuration and state dict: catalog rows, model folders, custom checkpoints.

Published files and custom checkpoints are downloaded, verified and converted into the cache; model folders are read.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit
from urllib.request import url2pathname

import safetensors.torch

from hrnet_zoo.datasets import ADE20K, Dataset
from hrnet_zoo.errors import (
    CacheError,
    CheckpointNotFoundError,
    ConfigError,
    HashMismatchError,
    raise_on_oom,
    redact,
)
from hrnet_zoo.images.atomic import atomic_write, make_folder
from hrnet_zoo.weights import cache
from hrnet_zoo.weights.addresses import addresses
from hrnet_zoo.weights.convert import (
    CONVERTER_VERSION,
    ROOM,
    Shapes,
    Unwrap,
    Weights,
    backbone_shapes,
    check_hash,
    claimed_classes,
    convert_checkpoint,
    fetch_into_cache,
    fetch_verified,
    load,
    map_safetensors,
    network_shapes,
    provenance_of,
    publish,
    read_checkpoint,
    read_file,
    size_limit,
    to_safetensors,
    verify_data,
)
from hrnet_zoo.weights.scan import inspect_safetensors, is_safetensors
from hrnet_zoo.weights.state_dict import fit_state, unwrap, unwrap_backbone
from hrnet_zoo.zoo.catalog import (
    ARCHS,
    DEMO,
    HUB,
    IMAGENET,
    LOCAL,
    ImageNetBackbone,
    ModelInfo,
    PublishedFile,
    is_saved,
    model_info,
    recognize,
)
from hrnet_zoo.zoo.model_config import WEIGHTS_FILE, ModelConfig
from hrnet_zoo.zoo.model_folder import load_folder, read_folder

# Training checkpoints hold up to two more copies of the weights, in the optimizer's state.
SIZE_FACTOR = 4
CLASSIFIER_BYTES = 50 << 20  # of an ImageNet classifier beside its backbone: 12 million parameters
# Eight or more hex digits before the extension are a file's hash; without a letter, a date or a number of steps
# (1 of 43 hashes has no letter, and is not checked).
STATED_HASH = re.compile(r"-((?=\d*[a-f])[0-9a-f]{8,64})\.\w+$")

logger = logging.getLogger("hrnet_zoo")


@dataclass(frozen=True)
class ResolvedModel:
    """What a model name stands for."""

    name: str
    arch: str  # such as "hr18"
    method: str  # "FCN" or "OCRNet"
    dataset: Dataset  # with the classes of the weights
    info: ModelInfo | None  # None for a model folder or a repository
    config: ModelConfig | None  # None for a catalog row
    source: str  # what log messages call the weights
    load: Callable[[Shapes], Weights]  # given names and shapes of the network
    verify: Callable[[], object]  # raises CheckpointError unless the downloaded or saved weights are intact


def resolve(name: str, *, progress: bool = True) -> ResolvedModel:
    """Resolve a model name of `create_model`; for a repository on the Hub, its configuration is downloaded."""
    if name.startswith(HUB):
        from hrnet_zoo.zoo.hub import resolve_repository  # huggingface_hub is slow to import

        return resolve_repository(name)
    if is_saved(name):
        return _resolve_folder(f"{LOCAL}{name.removeprefix(LOCAL)}")
    info = model_info(name)
    return ResolvedModel(
        name=info.name,
        arch=info.arch,
        method=info.method,
        dataset=info.dataset,
        info=info,
        config=None,
        source=info.file_name,
        load=functools.partial(load_published, info, progress=progress),
        verify=functools.partial(verify_published, info),
    )


def is_here(name: str) -> bool:
    """Tell whether the weights of a model name need no download: bundled, in a folder, or in the cache."""
    if is_saved(name):
        return not name.startswith(HUB)
    info = model_info(name)
    return info.checkpoint_url.startswith("file:") or cache.is_cached(cache_key(info))


def is_arch(name: str) -> bool:
    """Tell whether this names a network alone, such as "hr32", and no model folder."""
    return name in ARCHS and not (Path(name) / WEIGHTS_FILE).is_file()


def resolve_arch(arch: str, *, progress: bool = True) -> ResolvedModel:
    """Return a network alone, with its backbone's ImageNet weights; sizes are those for the photographs of ADE20K."""
    return ResolvedModel(
        name=arch,
        arch=arch,
        method="FCN",
        dataset=replace(ADE20K, title="custom images", data_license="unknown"),
        info=None,
        config=None,
        source=IMAGENET[arch].file_name,
        load=functools.partial(load_published, IMAGENET[arch], progress=progress),
        verify=functools.partial(verify_published, IMAGENET[arch]),
    )


def _resolve_folder(name: str) -> ResolvedModel:
    if name == LOCAL or "://" in name:
        found, advice = "no folder after the colon", "name it: local-dir:PATH"
        raise ConfigError(asked=f"the model {name!r}", found=found, done="nothing was loaded", advice=advice)
    folder = Path(os.path.expanduser(name.removeprefix(LOCAL)))  # noqa: PTH111 - never raises, unlike Path.expanduser
    config, path = read_folder(folder), folder / WEIGHTS_FILE

    def load(expected: Shapes) -> Weights:
        state, provenance = load_folder(folder, config, expected)
        # The path stays out: the loaded network may be saved again, and shared.
        return state, {**provenance, "model": LOCAL.rstrip(":"), "source_url": WEIGHTS_FILE}

    return ResolvedModel(
        name=name,
        arch=config.arch,
        method=config.method,
        dataset=config.dataset,
        info=None,
        config=config,
        source=str(path),
        load=load,
        verify=functools.partial(verify_data, path),
    )


# --- catalog rows -----------------------------------------------------------------------------------------------------


def published_shapes(info: PublishedFile) -> Shapes:
    """Return names and shapes of what a published file is converted into."""
    if isinstance(info, ImageNetBackbone):
        return backbone_shapes(info.name)
    return network_shapes(info.arch, info.num_classes, info.method)


def load_published(info: PublishedFile, expected: Shapes, *, progress: bool) -> Weights:
    """Return a row's weights from the cache, after downloading them if need be; the bundled file needs no cache."""
    try:
        state, header = load(functools.partial(download, info, expected, progress=progress), expected)
    except CacheError as error:
        if info is not DEMO:
            raise
        logger.warning("%s is converted in memory: the cache cannot be used (%s)", info.name, error.found)
        path = Path(url2pathname(urlsplit(info.checkpoint_url).path))
        body = read_file(path)
        check_hash(body, info.stated_sha256, str(path))
        blob = _convert([body], str(path), info, expected)
        return safetensors.torch.load(blob), dict(inspect_safetensors(blob, info.name).metadata)
    _require_source(info, header, cache.path_of(cache_key(info)))
    return state, header


def verify_published(info: PublishedFile) -> None:
    """Raise CheckpointError unless a row's file is cached and intact: its data, its origin, its names and shapes."""
    path = cache.path_of(cache_key(info))
    try:
        verify_data(path)
    except CheckpointNotFoundError as error:
        error.advice = f"hrnet-zoo download {info.name}"
        raise
    expected = published_shapes(info)
    _, header = map_safetensors(path, lambda _: expected, str(path))
    _require_source(info, header, path)


def _require_source(info: PublishedFile, header: Mapping[str, str], path: Path) -> None:
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


def download(info: PublishedFile, expected: Shapes, *, progress: bool) -> Path:
    """Return the path of a row's converted weights in the cache, after downloading them if need be."""
    if cache.is_cached(cache_key(info)):  # then the settings of mirrors do not matter
        return cache.path_of(cache_key(info))
    return fetch_into_cache(
        cache_key(info),
        addresses(info.checkpoint_url),
        info.stated_sha256,
        lambda bodies: _convert(bodies, info.checkpoint_url, info, expected),
        max_bytes=_limit(info, expected),
        progress=progress,
    )


def import_file(path: Path) -> tuple[PublishedFile, Path]:
    """Verify and convert a published file that was downloaded by hand; return its row and its path in the cache."""
    with raise_on_oom(f"import {path}", done="nothing was imported", advice=ROOM):
        bodies = [read_file(path)]
        info = recognize(hashlib.sha256(bodies[0]).hexdigest())
        if info is None:
            read_checkpoint(bodies[0], str(path))  # a web page, a truncated or an unsafe file is reported as such
            backbones = {each.file_name: each for each in IMAGENET.values()}
            info = backbones.get(path.name) or model_info(path.name)
        check_hash(bodies[0], info.stated_sha256, str(path))
        key = cache_key(info)
        expected = published_shapes(info)
        with cache.lock(key):
            publish(key, _convert(bodies, str(path), info, expected))
        return info, cache.path_of(key)


def mirror(info: PublishedFile, folder: Path, expected: Shapes, *, progress: bool) -> Path:
    """Download a row's original file, verified and unconverted, into a mirror folder; return its path there.

    Any web server can serve the folder as it is; `file://FOLDER` in HRNET_ZOO_MIRRORS works too.
    """
    final = folder / urlsplit(_published_address(info)).path.lstrip("/")
    if os.path.lexists(final):  # unlike Path.is_file, never raises, even for a name that is too long
        check_hash(read_file(final), info.stated_sha256, str(final))
        return final
    key, limit = cache_key(info), _limit(info, expected)
    with cache.lock(key):
        urls = addresses(info.checkpoint_url)
        bodies, partial = fetch_verified(key, urls, info.stated_sha256, max_bytes=limit, progress=progress)
    make_folder(final.parent)
    atomic_write(final, bodies.pop())
    cache.discard(partial)
    return final


def cache_key(info: PublishedFile) -> str:
    """Return the name of a row's file in the cache: another file or another conversion has another key."""
    return f"{PurePosixPath(info.file_name).stem}-c{CONVERTER_VERSION}"


def _convert(bodies: list[bytes], source: str, info: PublishedFile, expected: Shapes) -> bytes:
    provenance = {"model": info.name, "source_url": _published_address(info)}
    taken = unwrap_backbone if isinstance(info, ImageNetBackbone) else unwrap
    return convert_checkpoint(bodies, source, expected, provenance, taken)


def _limit(info: PublishedFile, expected: Shapes) -> int:
    return size_limit(expected) + (CLASSIFIER_BYTES if isinstance(info, ImageNetBackbone) else 0)


def _published_address(info: PublishedFile) -> str:
    """Return where the file was published; for the bundled file its name, not a path of this machine."""
    return info.checkpoint_url if info.checkpoint_url.startswith("https:") else info.file_name


# --- custom checkpoints -----------------------------------------------------------------------------------------------


def load_custom(source: str, arch: str, network: Shapes, *, progress: bool, unwrap: Unwrap = unwrap) -> Weights:
    """Return the weights in a custom checkpoint, by path or address, through the cache.

    `arch` is part of the cache key; `unwrap` takes the network, or its backbone alone.

    The content tells a file of `torch.save` (either serialization, with whatever lies beside the weights) from
    safetensors. Where tensors were renamed or ignored, one log line says which.
    """
    shown, is_address = redact(source), "://" in source
    name = PurePosixPath(urlsplit(source).path).name.partition(";")[0] if is_address else Path(source).name
    match = STATED_HASH.search(name) if is_address else None
    stated = match[1] if match else ""

    def convert(bodies: list[bytes]) -> bytes:
        if is_address and not stated:
            logger.warning("%s has no SHA-256 in its name: the download could not be verified", shown)
        # Of a path the name alone: the header travels with the weights, and must not tell the user's folders.
        provenance = {"source_url": shown if is_address else name}
        if not is_safetensors(bodies[0]):
            return convert_checkpoint(bodies, shown, network, provenance, unwrap)
        body = bodies.pop()
        claimed = claimed_classes(inspect_safetensors(body, shown).metadata)
        stored = safetensors.torch.load(body)
        state, notes = unwrap(sorted(stored), stored.__getitem__)  # safetensors gives a random order
        header = {**provenance, **provenance_of(body, claimed, notes)}
        return to_safetensors(fit_state(state, network, shown), header)

    def download() -> Path:
        # Another file with the same few digits is found in minutes: only a whole digest is shared between addresses.
        digest = stated if len(stated) == 64 else hashlib.sha256(source.encode()).hexdigest()
        key, limit = _cache_key(name, arch, digest), SIZE_FACTOR * size_limit(network)
        return fetch_into_cache(key, addresses(source), stated, convert, max_bytes=limit, progress=progress)

    def read() -> Path:
        with raise_on_oom(f"convert {source}", done="nothing was loaded", advice=ROOM):
            bodies = [read_file(Path(source))]
            key = _cache_key(name, arch, hashlib.sha256(bodies[0]).hexdigest())
            with cache.lock(key):
                if not cache.is_cached(key):
                    publish(key, convert(bodies))
        return cache.path_of(key)

    state, provenance = load(download if is_address else read, network)
    if notes := provenance.get("file_notes"):
        logger.warning("%s: %s", shown, notes)
    return state, provenance


def _cache_key(name: str, arch: str, digest: str) -> str:
    """Return a cache key that begins like the file's name, in the characters that keys allow."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", PurePosixPath(name).stem)[:60].lstrip("-") or "checkpoint"
    return f"{plain}-{arch}-{digest[:16]}-c{CONVERTER_VERSION}"
