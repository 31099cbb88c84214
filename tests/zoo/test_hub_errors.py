"""What huggingface_hub raises becomes our errors, without secrets."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import LocalTokenNotFoundError

from hrnet_zoo.errors import CacheError, ConfigError, HubAuthError, HubError
from hrnet_zoo.zoo.hub_errors import endpoint, hub_errors, require_repo
from tests.support.hub_server import TOKEN, Hub, connected


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with connected(tmp_path, monkeypatch) as running:
        yield running


def test_the_librarys_own_transport_errors_are_caught(hub: Hub) -> None:
    hub.break_at = "/api/"
    with pytest.raises(HubError, match="no answer") as caught, hub_errors("a/b", "ask"):
        HfApi(endpoint=hub.url).model_info("a/b")
    assert (caught.value.repo, caught.value.exit_code) == ("a/b", 3)
    assert caught.value.__context__ is not None


def test_nothing_secret_is_told() -> None:
    with pytest.raises(HubError) as caught, hub_errors("a/b", "ask"):
        raise OSError(f"https://user:{TOKEN}@host/x?X-Amz-Signature={TOKEN} failed")
    assert TOKEN not in str(caught.value)


def test_the_error_below_an_uploads_error_counts() -> None:
    error = RuntimeError("while uploading")
    error.__cause__ = LocalTokenNotFoundError()
    with pytest.raises(HubAuthError, match="no token"), hub_errors("a/b", "ask"):
        raise error


def test_a_cache_that_cannot_be_used(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "hub").write_bytes(b"in the way")
    hub.add("a/b", {"config.json": b"{}"})
    with pytest.raises(CacheError, match="HF_HUB_CACHE") as caught, hub_errors("a/b", "ask"):
        hf_hub_download("a/b", "config.json", endpoint=hub.url)
    assert caught.value.path == tmp_path / "hub"


def test_what_is_refused_is_called_so() -> None:
    with pytest.raises(HubError, match="ValueError: bad card"), hub_errors("a/b", "ask"):
        raise ValueError("bad\ncard")


def test_programming_errors_pass() -> None:
    with pytest.raises(AttributeError), hub_errors("a/b", "ask"):
        raise AttributeError


@pytest.mark.parametrize("repo", ["", "a", "a/b/c", "a//b", "../b", "a/..", "a/b.git", "a/b\r\n", "a/" + "x" * 100])
def test_impossible_names(repo: str) -> None:
    with pytest.raises(ConfigError):
        require_repo(repo)


def test_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1/")
    assert endpoint() == "http://127.0.0.1:1"
    monkeypatch.delenv("HF_ENDPOINT")
    assert endpoint() == "https://huggingface.co"
