"""What is pulled from a Hub on this machine is what was shared, or is refused; errors hold no secrets."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import LocalTokenNotFoundError

from hrnet_zoo.errors import (
    CacheError,
    ConfigError,
    HashMismatchError,
    HubError,
    HubRefusedError,
    ModelConfigError,
    OfflineError,
)
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.zoo.create import create_model
from hrnet_zoo.zoo.hub import endpoint, hub_errors, require_repo
from hrnet_zoo.zoo.model_config import CONFIG_FILE, WEIGHTS_FILE, read_config
from tests.support.hub_server import TOKEN, Hub, Reply
from tests.support.tables import ROOT


@pytest.fixture
def files(demo_folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in demo_folder.iterdir()}


def pull(name: str) -> FCNHRNet:
    return create_model(f"hf-hub:{name}", device="cpu")


def test_a_commit_is_fetched_once(hub: Hub, files: dict[str, bytes], caplog: pytest.LogCaptureFixture) -> None:
    commit = hub.add("me/street", files)
    first = pull(f"me/street@{commit}")
    asked = len(hub.requests)
    again = pull(f"me/street@{commit}")
    assert len(hub.requests) == asked
    assert torch.equal(first.decode_head.conv_seg.weight, again.decode_head.conv_seg.weight)
    assert first.name == f"hf-hub:me/street@{commit}"
    assert first.provenance["source_url"] == f"{hub.url}/me/street/model.safetensors"
    assert not any("README" in request for request in hub.requests)
    assert "not pinned" not in caplog.text


def test_a_branch_moves_and_says_so(hub: Hub, files: dict[str, bytes], caplog: pytest.LogCaptureFixture) -> None:
    first = hub.add("me/street", files)
    assert pull("me/street").provenance["model"] == f"hf-hub:me/street@{first}"
    assert len([line for line in caplog.messages if f"hf-hub:me/street@{first} stays the same" in line]) == 1
    second = hub.add("me/street", {"README.md": b"new"})
    assert pull("me/street@main").provenance["model"] == f"hf-hub:me/street@{second}"
    assert pull(f"me/street@{first}").provenance["model"] == f"hf-hub:me/street@{first}"


def test_a_copy_keeps_metrics_and_names_the_repository(hub: Hub, files: dict[str, bytes], tmp_path: Path) -> None:
    commit = hub.add("me/street", files)
    copied = read_config(pull(f"me/street@{commit}").save_pretrained(tmp_path / "b") / CONFIG_FILE)
    assert copied.metrics.miou == 80.76
    assert copied.parent
    assert copied.parent.name == f"hf-hub:me/street@{commit}"


def test_random_weights_need_no_weights(hub: Hub, files: dict[str, bytes]) -> None:
    hub.add("me/street", files)
    assert create_model("hf-hub:me/street", pretrained=False, device="cpu").classes[0] == "road"
    assert not any(WEIGHTS_FILE in request for request in hub.requests)


def test_wrong_bytes_are_fetched_once_more(hub: Hub, files: dict[str, bytes], caplog: pytest.LogCaptureFixture) -> None:
    hub.add("me/street", files)
    hub.corrupt = 1
    pull("me/street")
    assert "fetching it once more" in caplog.text
    assert hub.requests.count(f"GET /me/street/resolve/{hub.repos['me/street'].branches['main']}/{WEIGHTS_FILE}") == 2


def test_wrong_bytes_twice_are_refused(hub: Hub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    commit = hub.add("me/street", files)
    hub.corrupt = 2
    with pytest.raises(HashMismatchError):
        pull(f"me/street@{commit}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HashMismatchError):  # what is cached of it is looked at each time
        pull(f"me/street@{commit}")


def test_names_that_changed_places(hub: Hub, files: dict[str, bytes]) -> None:
    """Damage to the header alone, which the digest of the data does not cover: two tensors of one shape are swapped."""
    one, two = b"backbone.bn1.weight", b"backbone.bn2.weight"

    def swapped(content: bytes) -> bytes:
        assert content.count(one) == content.count(two) == 1
        return content.replace(one, b"?" * len(one)).replace(two, one).replace(b"?" * len(one), two)

    hub.add("me/street", files)
    hub.corrupt, hub.damage = 2, swapped
    with pytest.raises(HashMismatchError, match=r"expected [0-9a-f]{64}"):
        pull("me/street")
    pull("me/street")


def test_weights_and_config_of_two_models(hub: Hub, files: dict[str, bytes]) -> None:
    hub.add("me/street", {**files, CONFIG_FILE: files[CONFIG_FILE].replace(b'"road"', b'"rode"')})
    with pytest.raises(ModelConfigError, match="another value"):
        pull("me/street")


@pytest.mark.parametrize("config", [b"{}", b"[" * 5000, b" " * (2 << 20)])
def test_an_invalid_config(config: bytes, hub: Hub, files: dict[str, bytes]) -> None:
    hub.add("me/street", {**files, CONFIG_FILE: config})
    with pytest.raises(ModelConfigError):
        pull("me/street")
    assert not any(WEIGHTS_FILE in request for request in hub.requests)


def test_pickles_are_never_fetched(hub: Hub, files: dict[str, bytes]) -> None:
    hub.add("me/old", {"pytorch_model.bin": b"\x80", CONFIG_FILE: files[CONFIG_FILE]})
    with pytest.raises(HubRefusedError, match=r"model\.safetensors of me/old[\s\S]*`hrnet-zoo push` filled"):
        pull("me/old")
    hub.add("me/text", {"README.md": b""})
    with pytest.raises(HubRefusedError, match=r"config\.json of me/text"):
        pull("me/text")
    assert not any("pytorch_model" in request for request in hub.requests)


def test_what_is_not_there(hub: Hub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("me/street", files)
    with pytest.raises(HubRefusedError, match="revision"):
        pull("me/street@v9")
    with pytest.raises(HubRefusedError, match="HTTP status 404 for me/absent"):
        pull("me/absent")
    hub.repos["me/street"].private = True
    pull("me/street")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubRefusedError, match="set HF_TOKEN") as caught:
        pull("me/street")
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["", "street", "a/b/c", "../b", "a/b@", "a/b@../../x", "a/b@x y", "a/b@\r\nx", "a/b@-x"]
)
def test_impossible_names(name: str, hub: Hub) -> None:
    with pytest.raises(ConfigError, match=r"no connection was opened[\s\S]*write hf-hub:ORG/NAME"):
        pull(name)
    assert not hub.requests


@pytest.mark.parametrize("repo", ["", "a", "a/b/c", "a//b", "../b", "a/..", "a/b.git", "a/b\r\n", "a/" + "x" * 100])
def test_impossible_repositories(repo: str) -> None:
    with pytest.raises(ConfigError):
        require_repo(repo)


@pytest.mark.parametrize("switch", ["HRNET_ZOO_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline(switch: str, hub: Hub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    commit = hub.add("me/street", files)
    monkeypatch.setenv(switch, "1")
    with pytest.raises(OfflineError, match=switch):
        pull("me/street")
    assert not hub.requests
    monkeypatch.delenv(switch)
    pull("me/street")
    asked = len(hub.requests)
    monkeypatch.setenv(switch, "1")
    assert pull("me/street").name == pull(f"me/street@{commit}").name
    assert len(hub.requests) == asked


def test_weights_not_cached_offline(hub: Hub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("me/street", files)
    create_model("hf-hub:me/street", pretrained=False, device="cpu")
    monkeypatch.setenv("HRNET_ZOO_OFFLINE", "1")
    with pytest.raises(OfflineError, match=WEIGHTS_FILE):
        pull("me/street")


HUB = """
import sys
from pathlib import Path
from tests.support.hub_server import serve_hub
with serve_hub() as hub:
    hub.add("me/street", {path.name: path.read_bytes() for path in Path(sys.argv[1]).iterdir()})
    print(hub.url, flush=True)
    sys.stdin.read()
"""


@pytest.mark.usefixtures("hub")
def test_a_hub_that_is_down(
    demo_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In a process of its own, since a closed server still answers on connections that are kept alive."""
    command = [sys.executable, "-c", HUB, str(demo_folder)]
    with subprocess.Popen(  # noqa: S603
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        try:
            monkeypatch.setenv("HF_ENDPOINT", process.stdout.readline().strip())
            name = pull("me/street").name
        finally:
            process.kill()
    began = time.monotonic()
    assert pull("me/street").name == name
    assert "the cached copy is used" in caplog.text
    with pytest.raises(HubError, match="no answer") as caught:
        pull("me/other")
    assert type(caught.value) is HubError
    assert time.monotonic() - began < 10  # no retries of half a minute where nothing is to be had


def test_a_gated_repository(hub: Hub) -> None:
    hub.fail = Reply(403, headers={"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
    with pytest.raises(HubRefusedError, match="HTTP status 403 for me/street at ") as caught:
        pull("me/street")
    assert "accept its terms" in caught.value.advice
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("code", [429, 503])
def test_a_hub_that_has_no_time(code: int, hub: Hub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked again for a while, by huggingface_hub; a commit that is here needs no answer."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
    commit = hub.add("me/street", files)
    pull(f"me/street@{commit}")
    hub.fail = Reply(code)
    pull(f"me/street@{commit}")
    with pytest.raises(HubError, match=f"HTTP status {code} for me/other") as caught:
        pull("me/other")
    assert type(caught.value) is HubError
    assert "try again later" in caught.value.advice


def test_transport_errors_are_caught(hub: Hub) -> None:
    hub.break_at = "/api/"
    with pytest.raises(HubError, match="no answer") as caught, hub_errors("a/b", "ask"):
        HfApi(endpoint=hub.url).model_info("a/b")
    assert (caught.value.repo, caught.value.exit_code) == ("a/b", 3)
    assert caught.value.__context__ is not None


def test_errors_hold_no_secrets() -> None:
    with pytest.raises(HubError) as caught, hub_errors("a/b", "ask"):
        raise OSError(f"https://user:{TOKEN}@host/x?X-Amz-Signature={TOKEN} failed")
    assert TOKEN not in str(caught.value)


def test_the_cause_of_an_upload_error_counts() -> None:
    error = RuntimeError("while uploading")
    error.__cause__ = LocalTokenNotFoundError()
    with pytest.raises(HubRefusedError, match="LocalTokenNotFoundError"), hub_errors("a/b", "ask"):
        raise error


def test_a_cache_that_cannot_be_used(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "hub").write_bytes(b"in the way")
    hub.add("a/b", {"config.json": b"{}"})
    with pytest.raises(CacheError, match="HF_HUB_CACHE") as caught, hub_errors("a/b", "ask"):
        hf_hub_download("a/b", "config.json", endpoint=hub.url)
    assert caught.value.path == tmp_path / "hub"


def test_other_refusals_are_named() -> None:
    with pytest.raises(HubError, match="ValueError: bad card"), hub_errors("a/b", "ask"):
        raise ValueError("bad\ncard")


def test_programming_errors_pass() -> None:
    with pytest.raises(AttributeError), hub_errors("a/b", "ask"):
        raise AttributeError


def test_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1/")
    assert endpoint() == "http://127.0.0.1:1"
    monkeypatch.delenv("HF_ENDPOINT")
    assert endpoint() == "https://huggingface.co"
