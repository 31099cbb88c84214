"""Verify, repair, prune and clear the files of the cache.

Loading reads a file's header only, which takes a millisecond; damage to the data behind it is found here.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hrnet_zoo.errors import CheckpointError, HRNetZooError
from hrnet_zoo.weights import cache
from hrnet_zoo.weights.convert import CONVERTER_VERSION, verify_data
from hrnet_zoo.weights.scan import inspect_safetensors
from hrnet_zoo.zoo.catalog import IMAGENET, ModelInfo, PublishedFile, list_models, model_info
from hrnet_zoo.zoo.resolve import (
    cache_key,
    download,
    is_arch,
    published_shapes,
    resolve,
    resolve_arch,
    verify_published,
)
from hrnet_zoo.zoo.training_log import log_key, parse_log


@dataclass(frozen=True)
class Verdict:
    """Result of verifying one file: `error` is None if it is intact; `name` is the model's, or the file's."""

    name: str
    path: Path | None
    error: HRNetZooError | None


def verify(names: Sequence[str] = ()) -> list[Verdict]:
    """Hash models again and compare them with what was written; without names, all finished files of the cache.

    Nothing is downloaded, except the commit of a branch on the Hub.
    """
    if not names:
        return [Verdict(_name(entry.key), entry.path, _error_in(entry)) for entry in _finished()]
    verdicts = []
    for name in names:
        path, error = None, None
        try:
            model = resolve_arch(name) if is_arch(name) else resolve(name, progress=False)
            name = model.name
            path = cache.path_of(cache_key(model.info)) if model.info else None
            model.verify()
        except CheckpointError as failure:
            error = failure
        verdicts.append(Verdict(name, path, error))
    return verdicts


def source_digests(verdicts: Sequence[Verdict]) -> list[str]:
    """Return the SHA-256 of the published file behind each intact model, in the format of `sha256sum`."""
    lines = []
    for verdict in verdicts:
        if verdict.error is None and verdict.path and verdict.name in list_models():
            header = inspect_safetensors(verdict.path, str(verdict.path))
            lines.append(f"{header.metadata['source_sha256']}  {model_info(verdict.name).file_name}")
    return lines


def repair(*, progress: bool) -> list[Verdict]:
    """Remove every damaged file of the cache, and download published weights again.

    Return the damaged files, each with the error that prevented its repair. Where there is none, the file is intact
    again; or, if it is no published one, it is converted again when next used.
    """
    damaged = []
    for entry in _finished():
        if _error_in(entry) is None:
            continue
        error, row = None, _rows_by_key().get(entry.key)
        try:
            cache.remove_damaged(entry.path, functools.partial(_check, entry))
            if row:
                download(row, published_shapes(row), progress=progress)
        except HRNetZooError as failure:  # it cannot be read, and stays; or it cannot be downloaded
            error = failure
        damaged.append(Verdict(_name(entry.key), entry.path, error))
    return damaged


def prune() -> list[cache.CacheEntry]:
    """Remove leftovers of dead processes and conversions by older versions of this library; return what was removed."""
    removed = cache.sweep(everything=True)
    for entry in _finished():
        version = re.search(r"-c([0-9]+)$", entry.key)
        if entry.kind == "model" and version and int(version[1]) < CONVERTER_VERSION:
            removed += cache.clear(entry.key)
    return removed


def clear_model(info: PublishedFile) -> list[cache.CacheEntry]:
    """Remove a row's weights and training log, and partial downloads of both; return what was removed."""
    log_url = info.log_url if isinstance(info, ModelInfo) else None
    return cache.clear(cache_key(info)) + (cache.clear(log_key(log_url)) if log_url else [])


def _finished() -> list[cache.CacheEntry]:
    return [entry for entry in cache.entries() if entry.kind in {"model", "log"}]


def _rows_by_key() -> dict[str, PublishedFile]:
    files: list[PublishedFile] = [*map(model_info, list_models()), *IMAGENET.values()]
    return {cache_key(file): file for file in files}


def _name(key: str) -> str:
    row = _rows_by_key().get(key)
    return row.name if row else key


def _error_in(entry: cache.CacheEntry) -> HRNetZooError | None:
    try:
        _check(entry, entry.path)
    except HRNetZooError as error:
        return error
    return None


def _check(entry: cache.CacheEntry, path: Path) -> None:
    if entry.kind == "log":
        with cache.disk_errors(path, f"read {path}"):
            data = path.read_bytes()
        parse_log(data, str(path), entry.key)
    elif row := _rows_by_key().get(entry.key):
        verify_published(row)
    else:
        verify_data(path)
