"""URL -> verified private part: resume, retry, limits. Knows nothing of models."""

import contextlib
import functools
import itertools
import logging
import random
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import requests
import urllib3.exceptions

from hrnet_zoo.errors import (
    CheckpointError,
    DownloadError,
    OfflineError,
    TransferError,
    UnexpectedContentError,
    printable,
    redact,
)
from hrnet_zoo.images.progress import Bar
from hrnet_zoo.weights.addresses import is_offline
from hrnet_zoo.weights.part import (
    STRONG_ETAG,
    Note,
    PartLostError,
    discard,
    disk_errors,
    read_note,
    resumable_bytes,
    size_of,
    write,
)
from hrnet_zoo.weights.request import (
    ELSEWHERE,
    Job,
    Session,
    TryAgainError,
    ask,
    cause,
    check_answer,
    check_hop,
    fate,
    page,
)

TRIES = 5  # in a row without PROGRESS_BYTES of new data
PROGRESS_BYTES = 1 << 20
LONGEST_BACKOFF_S = 8.0
LONGEST_RETRY_AFTER_S = 60.0
SLOWEST_BYTES, SLOWEST_S = 120 << 10, 120.0  # a body below 1 KiB/s for two minutes counts as stalled
CHUNK_BYTES = 1 << 18

# RFC 9110, 14.4. No file has more than 19 digits of bytes, and int() of thousands of them fails.
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")
_LENGTH = re.compile(r"[0-9]{1,19}")
_LFS_POINTER = b"version https://git-lfs"

_log = logging.getLogger("hrnet_zoo")
_jitter = random.Random()  # noqa: S311 - no secret; the generator that the module shares is the user's


def fetch(
    urls: Sequence[str],
    part: Path,
    *,
    max_bytes: int,
    verify: Callable[[Path], None],
    progress: bool,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Bring the whole body of the first URL that works into `part` and return that URL.

    What `part` already holds is continued where its note allows. A body that `verify` refuses is fetched once more
    from byte 0, then the next URL is tried. An interrupted transfer leaves its part for the next call.

    Args:
        urls: https:// or file:// addresses; http:// only to this machine or to a base named in HRNET_ZOO_MIRRORS.
        part: a private file, made if absent; its folder exists.
        max_bytes: the largest body accepted; nothing beyond is written.
        verify: raises CheckpointError if the finished part is not what was asked for.
        progress: show a bar on stderr, if that is a terminal.
        sleep: waits between two tries, in seconds.

    Raises:
        CheckpointError: an address served the wrong bytes twice and no other served the right ones.
        OfflineError: the network is switched off and no file:// address has the file.
        DownloadError: no address served the file (HTTPStatusError, TransferError, UnexpectedContentError, ...).
        CacheError: the part cannot be written (CacheSpaceError, CachePermissionError).

    """
    offline = is_offline()
    failures: list[DownloadError | CheckpointError] = []
    for url in urls:
        job = Job(url, part, max_bytes, progress)
        try:
            if offline and not url.startswith("file:"):
                raise job.refusal(
                    "HRNET_ZOO_OFFLINE or HF_HUB_OFFLINE switches the network off, and the file is not in the cache",
                    f"unset it; or fetch {job.name} from {job.shown} on another machine and run: "
                    f"hrnet-zoo import {job.name}",
                    OfflineError,
                )
            _bring(job, verify, sleep)
        except (DownloadError, CheckpointError) as failure:
            _log.info("%s: %s", job.shown, failure.found)
            failures.append(failure)
        except KeyboardInterrupt:
            _log.warning("interrupted: %s", fate(part))
            raise
        else:
            return url
    # The most telling first: wrong bytes, then the user's own switch, then what the first address said.
    told = min(
        failures, key=lambda failure: (not isinstance(failure, CheckpointError), type(failure) is not OfflineError)
    )
    if len(failures) > 1:
        if isinstance(told, DownloadError):
            told.done = fate(part)  # a later address may have changed it
        if isinstance(told, TransferError):
            told.kept = resumable_bytes(part)
        told.found = "; ".join(f"{redact(url)}: {failure.found}" for url, failure in zip(urls, failures, strict=True))
    raise told


def _bring(job: Job, verify: Callable[[Path], None], sleep: Callable[[float], None]) -> None:
    for last in (False, True):
        _download(job, sleep)
        with disk_errors(job.part, f"verify {job.part}"):
            try:
                return verify(job.part)
            except (CheckpointError, FileNotFoundError) as error:  # wrong, or taken away by another process
                discard(job.part)
                if last:
                    raise
                _log.warning("%s: %s; fetching it once more from the start", job.shown, error)
    return None


def _download(job: Job, sleep: Callable[[float], None]) -> None:
    """Try until the part is whole, or TRIES in a row brought less than PROGRESS_BYTES beyond the furthest point."""
    attempt = _chosen_way(job)
    reached, failed, first = size_of(job.part), 0, True
    while True:
        try:
            return attempt(job)
        except TryAgainError as again:
            size = size_of(job.part)
            if size >= reached + PROGRESS_BYTES:
                reached, failed = size, 0
            else:
                failed += 1
            if failed == TRIES:
                raise job.refusal(
                    f"{again} ({TRIES} tries without progress)",
                    f"check the network and run the same again; or {ELSEWHERE}",
                    TransferError,
                    kept=resumable_bytes(job.part),
                ) from again
            backoff = min(LONGEST_BACKOFF_S, 0.5 * 2 ** max(failed - 1, 0)) * _jitter.uniform(0.5, 1)
            wait_s = backoff if again.wait_s is None else min(again.wait_s, LONGEST_RETRY_AFTER_S)
            if first:  # a user who waits should know what for; the others say nothing new
                _log.warning("%s: %s; retrying", job.shown, again)
                first = False
            _log.info("%s: %s; next try in %.1f s", job.shown, again, wait_s)
            sleep(wait_s)


def _chosen_way(job: Job) -> Callable[[Job], None]:
    if job.url.startswith("file:"):
        return _copy
    check_hop(job, job.url)
    return _request


def _copy(job: Job) -> None:
    path = Path(url2pathname(urlsplit(job.url).path))
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):  # a pipe would block for ever
            raise job.refusal(f"{path} is not a regular file", ELSEWHERE)
        with path.open("rb") as source:
            _store(job, iter(functools.partial(source.read, CHUNK_BYTES), b""), 0, Note(job.shown, None, facts.st_size))
    except OSError as error:
        raise job.refusal(f"{path} cannot be read: {error.strerror}", ELSEWHERE) from error


def _request(job: Job) -> None:
    """Ask once for what is missing of the body, and store what comes."""
    size, note = size_of(job.part), read_note(job.part)
    if note is None or note.url != job.shown:
        note = None
    elif size and size == note.total:
        return  # whole already: the process that fetched it ended before it could use it
    etag = note.etag if note and size and size < (note.total or size + 1) else None
    start = size if etag else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-", "If-Range": etag} if etag else {})
    with Session() as session, ask(job, session, headers) as response:
        check_answer(job, response, start)
        total, answered_etag = _total(response.headers), response.headers.get("ETag", "")
        if "Content-Range" in response.headers or response.status_code == 206:
            sliced = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            total = int(sliced[3]) if sliced and sliced[3] != "*" else None
            known = note.total if note and etag else None
            if (
                not sliced
                or int(sliced[1]) != start
                or not start <= int(sliced[2]) < (total or int(sliced[2]) + 1)
                or (known and total and known != total)
                or (etag and answered_etag not in {"", etag})
            ):
                discard(job.part)
                raise TryAgainError("the host answered with another slice than the one asked for")
            total = total or known
        else:
            start = 0  # the whole body, whether or not a slice was asked for
        new = Note(job.shown, answered_etag if STRONG_ETAG.fullmatch(answered_etag) else etag if start else None, total)
        stored = _store(job, _body(session, response), start, new)
    if total is not None and stored < total:
        raise TryAgainError(f"the body broke off at {stored:,} of {total:,} bytes")


def _body(session: Session, response: requests.Response) -> Iterator[bytes]:
    """Read a body in blocks; SLOWEST_BYTES of it must come within each SLOWEST_S, whatever else comes."""
    session.allow(SLOWEST_S)
    count = 0
    while True:
        try:
            block = response.raw.read1(CHUNK_BYTES)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            if not session.late:
                raise TryAgainError(f"the body broke off ({cause(error)})") from error
        if session.late:
            raise TryAgainError(f"less than {SLOWEST_BYTES:,} bytes came in {SLOWEST_S:.0f} s")
        if not block:
            return
        yield block
        count += len(block)
        if count >= SLOWEST_BYTES:
            session.allow(SLOWEST_S)
            count = 0


def _store(job: Job, blocks: Iterator[bytes], start: int, note: Note) -> int:
    """Let a body into the part from `start` on, and return the size reached; one that looks wrong touches nothing."""
    if note.total is not None and note.total > job.max_bytes:
        raise _oversize(job, f"{note.total:,} bytes")
    first = next(blocks, b"")
    if not first and not start:
        raise page(job, "an empty body")
    if not start and first.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise page(job, "markup")
    if not start and first.startswith(_LFS_POINTER):
        raise job.refusal(
            "a pointer of Git LFS in place of the file it stands for",
            f"run `git lfs pull` where that folder was cloned; or {ELSEWHERE}",
            UnexpectedContentError,
        )
    with _bar(job, start, note.total) as bar:

        def limited() -> Iterator[bytes]:
            size = start
            for block in itertools.chain((first,), blocks):
                size += len(block)
                if size > job.max_bytes:
                    raise _oversize(job, "a body that goes on")
                yield block
                if bar is not None:
                    bar.update(len(block))

        try:
            return write(job.part, limited(), start, note)
        except PartLostError as error:
            raise TryAgainError("another process took the part over") from error
        except UnexpectedContentError as error:
            discard(job.part)
            error.done = "nothing was kept"
            raise


def _bar(job: Job, start: int, total: int | None) -> contextlib.AbstractContextManager[Bar | None]:
    if not job.progress or sys.stderr is None or not sys.stderr.isatty():
        return contextlib.nullcontext()
    return Bar(desc=printable(job.name), total=total, initial=start, unit="B", unit_scale=True)


def _oversize(job: Job, found: str) -> DownloadError:
    return job.refusal(f"{found}, but at most {job.max_bytes:,} bytes can be right", ELSEWHERE, UnexpectedContentError)


def _total(headers: Mapping[str, str]) -> int | None:
    length = _LENGTH.fullmatch(headers.get("Content-Length", ""))
    return int(length[0]) if length else None
