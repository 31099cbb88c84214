"""The addresses of a file: the publisher's host or mirrors; none when offline."""

import os
import re
from urllib.parse import urlsplit

from hrnet_zoo.errors import ConfigError, redact

PUBLISHED_HOST = "https://download.openmmlab.com"


def addresses(url: str) -> list[str]:
    """Return the addresses to try for a URL, in order: `mirrors` replace the publisher's host; other hosts stay."""
    if not url.startswith(f"{PUBLISHED_HOST}/"):
        return [url]
    path = url.removeprefix(PUBLISHED_HOST)
    return [base + path for base in mirrors() or (PUBLISHED_HOST,)]


def mirrors() -> list[str]:
    """Return the base addresses in `HRNET_ZOO_MIRRORS`, separated by commas or spaces; none if it is unset.

    Raises:
        ConfigError: one of them is not an https://, http:// or file:// address.

    """
    bases = [base.rstrip("/") for base in re.split(r"[,\s]+", os.environ.get("HRNET_ZOO_MIRRORS", "")) if base]
    for base in bases:
        if not is_base(base):
            raise ConfigError(
                asked="read the addresses in HRNET_ZOO_MIRRORS",
                found=f"{without_passwords(base)!r}, which is no https://HOST[/PATH], http://HOST[/PATH] or file:///FOLDER",
                done="nothing was fetched",
                advice="correct HRNET_ZOO_MIRRORS, or unset it",
            )
    return bases


def is_base(base: str) -> bool:
    """Tell whether this is https://HOST[/PATH], http://HOST[/PATH] or file:///FOLDER."""
    try:
        parts = urlsplit(base)
        local = parts.scheme == "file" and parts.netloc in {"", "localhost"} and bool(parts.path)
        remote = parts.scheme in {"https", "http"} and bool(parts.hostname)
        _ = parts.port  # raises ValueError where it is no number
    except ValueError:
        return False
    return (local or remote) and not (parts.query or parts.fragment or re.search(r"\s", base))


def is_offline() -> bool:
    """Tell whether `HRNET_ZOO_OFFLINE` or `HF_HUB_OFFLINE` forbids the network; ConfigError: neither yes nor no."""
    offline = False
    for name in ("HRNET_ZOO_OFFLINE", "HF_HUB_OFFLINE"):
        value = os.environ.get(name, "").strip().lower()
        offline |= value in {"1", "true", "yes", "on"}
        if value not in {"", "0", "false", "no", "off", "1", "true", "yes", "on"}:
            raise ConfigError(
                asked=f"read the setting {name}",
                found=f"the value {value!r}, neither a yes nor a no",
                done="nothing was fetched",
                advice=f"set {name} to 1 or 0, or unset it",
            )
    return offline


def is_loopback(host: str) -> bool:
    """Return whether a host name or IP address is this machine's."""
    return host in {"localhost", "127.0.0.1", "::1"}


def without_passwords(bases: str) -> str:
    """Blank passwords in a list of addresses, also those that contain a comma or a space."""
    return re.sub(r"[^\s/]*@", "***@", redact(bases))
