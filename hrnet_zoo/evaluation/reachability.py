"""Check whether hosts and mirrors have the published files, without downloading them."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import requests
import urllib3.exceptions

from hrnet_zoo.errors import DownloadError, redact
from hrnet_zoo.images.progress import Bar
from hrnet_zoo.weights.addresses import addresses, is_offline
from hrnet_zoo.weights.download import MAX_REDIRECTS, PAGE_TYPES, TimedSession, cause
from hrnet_zoo.zoo.catalog import ModelInfo

TIMEOUT_S = (10.0, 10.0)  # to connect; between two packets
ANSWER_S = 30.0  # for the whole answer, over all redirects
AT_ONCE = 8


@dataclass(frozen=True)
class Reach:
    """Result of checking one address.

    Attributes:
        model: catalog name.
        file: "checkpoint" or "log".
        url: without secrets.
        reachable: None: not tried, because an offline switch is on.
        found: the host's answer.
        size: bytes, if the host says.

    """

    model: str
    file: str
    url: str
    reachable: bool | None
    found: str
    size: int | None = None


def reach(rows: Sequence[ModelInfo], *, progress: bool) -> tuple[Reach, ...]:
    """Check the checkpoint and the log of each row at all their addresses, a few at once.

    HEAD requests; `file:` addresses are looked up. With an offline switch on, no connection is opened.

    Raises:
        ConfigError: a mirror or an offline switch is set to something unusable.

    """
    offline = is_offline()
    published = [
        (row.name, file, url)
        for row in rows
        for file, url in (("checkpoint", row.checkpoint_url), ("log", row.log_url))
        if url
    ]
    jobs = [(name, file, address) for name, file, url in published for address in addresses(url)]

    def ask(job: tuple[str, str, str]) -> Reach:
        name, file, url = job
        if url.startswith("file:"):
            return Reach(name, file, redact(url), *_look_up(url))
        if offline:
            return Reach(name, file, redact(url), None, "not tried: HRNET_ZOO_OFFLINE or HF_HUB_OFFLINE is on")
        return Reach(name, file, redact(url), *_head(url))

    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        return tuple(Bar(pool.map(ask, jobs), "network", len(jobs), unit="URL", disable=None if progress else True))
    finally:
        pool.shutdown(cancel_futures=True)  # do not wait for the rest after an interrupt


def require_all(reached: Sequence[Reach]) -> None:
    """Raise unless every file that was tried is at one of its addresses.

    Raises:
        DownloadError: some are nowhere.

    """
    tried = [each for each in reached if each.reachable is not None]
    there = {(each.model, each.file) for each in tried if each.reachable}
    missing = [each for each in tried if (each.model, each.file) not in there]
    if missing:
        files = list(dict.fromkeys(f"{each.file} of {each.model}" for each in missing))
        raise DownloadError(
            asked="reach the published files",
            found=f"at no address: {', '.join(files[:3])}{f' and {len(files) - 3} others' if len(files) > 3 else ''}; "
            f"{missing[0].url}: {missing[0].found}",
            done="nothing was downloaded; what is in the cache works",
            advice="check the network and its proxy settings; or name a mirror in HRNET_ZOO_MIRRORS",
            url=missing[0].url,
        )


def _look_up(url: str) -> tuple[bool, str, int | None]:
    path = Path(url2pathname(urlsplit(url).path))
    try:
        facts = path.stat()
    except OSError as error:
        return False, error.strerror or str(error), None
    return (True, "a file", facts.st_size) if stat.S_ISREG(facts.st_mode) else (False, "not a regular file", None)


def _head(url: str) -> tuple[bool, str, int | None]:
    with TimedSession(ANSWER_S) as session:
        session.max_redirects = MAX_REDIRECTS
        if not url.startswith("http:"):
            del session.adapters["http://"]  # a redirect from https down to http then has nowhere to go
        try:
            answer = session.head(url, headers={"Accept-Encoding": "identity"}, allow_redirects=True, timeout=TIMEOUT_S)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            if not session.late:
                malformed = isinstance(error, requests.exceptions.InvalidURL)  # its text may quote a password
                why = "the address, or a proxy setting, is malformed" if malformed else cause(error)[:200]
                return False, f"{type(error).__name__}: {why}", None
        if session.late:
            return False, f"no whole answer within {ANSWER_S:.0f} s", None
    kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if answer.status_code == 200 and kind in PAGE_TYPES:
        return False, f"a {kind} page in place of the file, which looks like a login page", None
    length = answer.headers.get("Content-Length", "")
    size = int(length) if length.isascii() and length.isdecimal() else None
    told = f"HTTP status {answer.status_code} {answer.reason or ''}".strip()
    return answer.status_code == 200, told, size if answer.status_code == 200 else None
