"""Push and pull over a Hub on this machine."""

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.errors import (
    CheckpointError,
    ConfigError,
    HashMismatchError,
    HubError,
    HubRefusedError,
    ModelConfigError,
    OfflineError,
    UnknownModelError,
)
from hrnet_zoo.zoo.create import create_model
from hrnet_zoo.zoo.model_config import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE
from hrnet_zoo.zoo.push import push, push_published
from tests.support.hub_server import TOKEN, Hub

# Of httpx, about how huggingface_hub sends a file
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def test_push_then_pull_gives_the_same_mask(hub: Hub, demo_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(demo_folder, tmp_path / "folder"))
    (folder / "optimizer.pth").write_bytes(b"not to be shared")
    pushed = push(folder, "me/street")
    repo = hub.repos["me/street"]
    assert repo.private
    assert list(repo.commits) == [pushed.commit]
    assert sorted(repo.commits[pushed.commit]) == sorted([CARD_FILE, CONFIG_FILE, WEIGHTS_FILE])
    assert pushed.url == f"{hub.url}/me/street/commit/{pushed.commit}"
    assert pushed.name == f"hf-hub:me/street@{pushed.commit}"
    pulled, local = create_model(pushed.name, device="cpu"), create_model(f"local-dir:{demo_folder}", device="cpu")
    image = scene(3, 96, 192).image
    assert np.array_equal(pulled.predict(image).mask, local.predict(image).mask)
    assert pulled.name == pulled.provenance["model"] == pushed.name
    assert pulled.provenance["data_sha256"] == pushed.data_sha256
    assert pulled.info is None


def test_a_second_push_is_a_second_commit_on_the_branch_asked_for(hub: Hub, demo_folder: Path) -> None:
    first = push(demo_folder, "me/street", public=True)
    second = push(demo_folder, "me/street", revision="next", message="another")
    assert not hub.repos["me/street"].private
    assert hub.repos["me/street"].branches == {"main": first.commit, "next": second.commit}


@pytest.mark.parametrize("step", ["preupload", "upload", "objects/batch", "/commit/", "repos/create"])
def test_network_lost_while_pushing(step: str, hub: Hub, demo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between huggingface_hub's own tries
    hub.break_at = step
    with pytest.raises(HubError, match="no commit was made") as caught:
        push(demo_folder, "me/street")
    assert (caught.value.exit_code, caught.value.repo) == (3, "me/street")
    assert type(caught.value) is HubError
    assert not any(repo.commits for repo in hub.repos.values())


def test_no_token_and_no_right(hub: Hub, demo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.forbid = True
    with pytest.raises(HubRefusedError, match="403") as caught:
        push(demo_folder, "me/street")
    assert TOKEN not in str(caught.value)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubRefusedError, match="hf auth login"):
        push(demo_folder, "me/street")
    assert not hub.repos


@pytest.mark.parametrize("repo", ["street", "a/b/c", "../x", "me/str eet", "me/x\r\nHost: y", ""])
def test_impossible_names(repo: str, hub: Hub, demo_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"write hf-hub:ORG/NAME"):
        push(demo_folder, repo)
    assert not hub.requests


def test_nothing_leaves_offline(hub: Hub, demo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRNET_ZOO_OFFLINE", "1")
    with pytest.raises(OfflineError, match="switches the network off"):
        push(demo_folder, "me/street")
    assert not hub.requests


def test_a_card_of_another_model_is_not_pushed(hub: Hub, demo_folder: Path, tmp_path: Path) -> None:
    made = Path(shutil.copytree(demo_folder, tmp_path / "copy"))
    (made / CARD_FILE).write_text("# Another model")
    with pytest.raises(ConfigError, match="does not name the weights beside it by their SHA-256"):
        push(made, "me/street")
    assert not hub.requests


def test_what_is_no_whole_model_is_not_pushed(hub: Hub, demo_folder: Path, tmp_path: Path) -> None:
    def folder(name: str, change: dict[str, bytes | None]) -> Path:
        made = tmp_path / name
        made.mkdir()
        for file in (CARD_FILE, CONFIG_FILE, WEIGHTS_FILE):
            content = change.get(file, (demo_folder / file).read_bytes())
            if content is not None:
                (made / file).write_bytes(content)
        return made

    weights = (demo_folder / WEIGHTS_FILE).read_bytes()
    cases: list[tuple[dict[str, bytes | None], type[CheckpointError]]] = [
        ({WEIGHTS_FILE: None}, CheckpointError),
        ({WEIGHTS_FILE: weights[:-1]}, CheckpointError),
        ({WEIGHTS_FILE: weights[:-1] + b"\1"}, HashMismatchError),
        ({CONFIG_FILE: None}, ModelConfigError),
        ({CONFIG_FILE: (demo_folder / CONFIG_FILE).read_bytes().replace(b'"road"', b'"rode"')}, ModelConfigError),
    ]
    for number, (change, error) in enumerate(cases):
        with pytest.raises(error):
            push(folder(str(number), change), "me/street")
    assert not hub.requests
    push(folder("no card", {CARD_FILE: None}), "me/street")
    (commit,) = hub.repos["me/street"].commits.values()
    assert commit[CARD_FILE] == (demo_folder / CARD_FILE).read_bytes()


def test_an_organizations_own_mirror(hub: Hub) -> None:
    (pushed,) = push_published("lab", ["demo"])
    assert pushed.repo == "lab/demo"
    assert hub.repos["lab/demo"].private
    mirrored, published = create_model(pushed.name, device="cpu"), create_model("demo", device="cpu")
    assert pushed.data_sha256 == published.provenance["data_sha256"]
    assert all(torch.equal(a, b) for a, b in zip(mirrored.parameters(), published.parameters(), strict=True))
    with pytest.raises(UnknownModelError):
        list(push_published("lab", ["demo", "dmeo"]))
    with pytest.raises(ConfigError, match="ORG/NAME"):
        list(push_published("lab/x", ["demo"]))
    assert list(hub.repos) == ["lab/demo"]
