"""What lies in the cache, file by file: verified to the last byte, mended, or thrown away.

Loading looks at a file's header only, which takes a millisecond; a disk that rots in the data behind it is found here.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hrnet_zoo.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    HashMismatchError,
    HRNetZooError,
    StateDictMismatchError,
)
from hrnet_zoo.weights import cache
from hrnet_zoo.weights.build import entries
from hrnet_zoo.weights.convert import CONVERTER_VERSION, verify_data
from hrnet_zoo.weights.gate import inspect_safetensors
from hrnet_zoo.weights.part import disk_errors
from hrnet_zoo.zoo.catalog import ModelInfo, list_models, model_info
from hrnet_zoo.zoo.origin import find
from hrnet_zoo.zoo.published import cached_stem, prefetch
from hrnet_zoo.zoo.training_log import log_stem, parse_log


@dataclass(frozen=True)
class Verdict:
    """What a look at every byte found: `error` is None where all is well; `name` is the model's, or the file's."""

    name: str
    path: Path | None
    error: HRNetZooError | None


def verify(names: Sequence[str] = ()) -> list[Verdict]:
    """Hash models again and compare them with what was written; without names, all finished files of the cache.

    Args:
        names: catalog names or aliases, "local-dir:PATH", "hf-hub:ORG/NAME[@REVISION]". Nothing is fetched but, of a
            branch on the Hub, its commit.

    Raises:
        UnknownModelError, ConfigError: a name is none.
        CacheError: the cache cannot be read.

    """
    if not names:
        return [Verdict(_name(entry.stem), entry.path, _problem(entry)) for entry in _finished()]
    verdicts = []
    for name in names:
        try:
            origin = find(name, progress=False)
            if origin.info is None:
                origin.verify()
            else:
                _verify_published(origin.info, cache.model_path(cached_stem(origin.info)))
            error = None
        except CheckpointError as failure:
            error = failure
        path = cache.model_path(cached_stem(origin.info)) if origin.info else None
        verdicts.append(Verdict(origin.name, path, error))
    return verdicts


def repair(*, progress: bool) -> list[Verdict]:
    """Remove every damaged file of the cache, and fetch those that were published again.

    Returns:
        The damaged ones, with the error that stands in the way of their return; without one, they are whole again,
        or, of a user's own, will be made again when next asked for.

    Raises:
        CacheError: the cache cannot be read or written.

    """
    done = []
    rows = _rows()
    for entry in _finished():
        if _problem(entry) is None:
            continue
        error, row = None, rows.get(entry.stem)
        try:
            cache.remove_damaged(entry.path, functools.partial(_check, entry))
            if row and entry.kind == "model":
                prefetch(row, entries(row.arch, row.num_classes), progress=progress)
        except HRNetZooError as failure:  # it cannot be read, and stays; or it cannot be had again
            error = failure
        done.append(Verdict(_name(entry.stem), entry.path, error))
    return done


def prune() -> list[cache.CacheEntry]:
    """Remove what nobody will use: what dead processes left, and what older versions of this library converted.

    Returns:
        What went. Of a living process nothing is touched.

    Raises:
        CacheError: the cache cannot be written.

    """
    gone = cache.sweep(everything=True)
    for entry in _finished():
        version = re.search(r"-c([0-9]+)$", entry.stem)
        if entry.kind == "model" and version and int(version[1]) < CONVERTER_VERSION:
            gone += cache.clear(entry.stem)
    return gone


def forget(info: ModelInfo) -> list[cache.CacheEntry]:
    """Remove a row's weights, its training log, and what was begun of both; return what went.

    Raises:
        CacheError: the cache cannot be written.

    """
    log = cache.clear(log_stem(info.log_url)) if info.log_url else []
    return cache.clear(cached_stem(info)) + log


def _finished() -> list[cache.CacheEntry]:
    return [entry for entry in cache.entries() if entry.kind in {"model", "log"}]


def _rows() -> dict[str, ModelInfo]:
    """All rows by the stem of their file."""
    return {cached_stem(row): row for row in map(model_info, list_models())}


def _name(stem: str) -> str:
    row = _rows().get(stem)
    return row.name if row else stem


def _problem(entry: cache.CacheEntry) -> HRNetZooError | None:
    try:
        _check(entry, entry.path)
    except HRNetZooError as error:
        return error
    return None


def _check(entry: cache.CacheEntry, path: Path) -> None:
    row = _rows().get(entry.stem)
    if entry.kind == "log":
        with disk_errors(path, f"read {path}"):
            parse_log(path.read_bytes(), str(path), entry.stem)
    elif row:
        _verify_published(row, path)
    else:
        verify_data(path)


def _verify_published(info: ModelInfo, path: Path) -> None:
    """Verify a row's file: its data, names, shapes and dtypes, and that it was made of the file that the row states."""
    if not path.exists():
        raise CheckpointNotFoundError(
            asked=f"verify {info.name}",
            found=f"it is not in the cache: {path}",
            done="nothing was fetched",
            advice=f"hrnet-zoo download {info.name}",
            source=str(path),
        )
    verify_data(path)
    header = inspect_safetensors(path, str(path))
    stated, found = info.sha256 or info.sha256_prefix, header.metadata.get("source_sha256", "")
    if not found.startswith(stated):
        raise HashMismatchError(
            asked=f"verify {path}",
            found=f"it was made of a file with SHA-256 {found or '(not told)'}; the row states {stated}",
            done="the file was left as it is",
            advice="hrnet-zoo cache repair",
            source=str(path),
            expected=stated,
            actual=found,
            size=path.stat().st_size,
        )
    expected = entries(info.arch, info.num_classes)
    shapes = {name: torch.Size(shape) for name, (_, shape) in header.entries.items()}
    if shapes != expected:
        raise StateDictMismatchError(
            asked=f"verify {path}",
            found="names or shapes that are not the network's",
            done="the file was left as it is",
            advice="hrnet-zoo cache repair",
            source=str(path),
            missing=tuple(expected.keys() - shapes.keys()),
            unexpected=tuple(shapes.keys() - expected.keys()),
            different=tuple(name for name in expected.keys() & shapes.keys() if expected[name] != shapes[name]),
        )
