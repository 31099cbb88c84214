"""Where files may be fetched from, and what of an address may be shown."""

import pytest

from hrnet_zoo.errors import ConfigError
from hrnet_zoo.weights.addresses import PUBLISHED_HOST, addresses, is_loopback, is_offline


def test_published_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{PUBLISHED_HOST}/mmsegmentation/a.pth"
    assert addresses(url) == [url]
    assert addresses("https://example.org/a.pth") == ["https://example.org/a.pth"]
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", "https://a.example/zoo/, file:///srv/zoo\nhttp://lab.example:8080")
    assert addresses(url) == [
        "https://a.example/zoo/mmsegmentation/a.pth",
        "file:///srv/zoo/mmsegmentation/a.pth",
        "http://lab.example:8080/mmsegmentation/a.pth",
    ]
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", " ")
    assert addresses(url) == [url]


@pytest.mark.parametrize(
    "value",
    [
        "lab.example",
        "/srv/zoo",
        "ftp://a.example",
        "https://",
        "https://user:secret@[::1",
        "https://a.example:port",
        "https://a.example/?key=secret",
        "file://a.example/zoo",
        "file:",
    ],
)
def test_malformed_mirrors(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", f"https://good.example {value}")
    with pytest.raises(ConfigError, match="HRNET_ZOO_MIRRORS") as caught:
        addresses(f"{PUBLISHED_HOST}/a.pth")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["HRNET_ZOO_OFFLINE", "HF_HUB_OFFLINE"])
@pytest.mark.parametrize(
    ("value", "offline"),
    [("1", True), ("Yes", True), ("TRUE", True), ("on", True), ("0", False), ("no", False), ("", False)],
)
def test_is_offline(monkeypatch: pytest.MonkeyPatch, name: str, value: str, offline: bool) -> None:
    monkeypatch.setenv(name, value)
    assert is_offline() is offline


def test_offline_is_neither_yes_nor_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRNET_ZOO_OFFLINE", "maybe")
    with pytest.raises(ConfigError, match="HRNET_ZOO_OFFLINE"):
        is_offline()


def test_is_loopback() -> None:
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert is_loopback("localhost")
    assert not is_loopback("example.org")
    assert not is_loopback("10.0.0.1")
