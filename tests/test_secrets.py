"""No secret leaks: not in a message, a traceback, a log line, a progress bar, JSON or a file."""

import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import hrnet_zoo
from hrnet_zoo.cli import main
from hrnet_zoo.weights import download
from hrnet_zoo.zoo.resolve import load_custom
from tests.support.http_server import FaultServer, status, whole
from tests.zoo.test_custom import NETWORK

ROW = "fcn_hr18s_cityscapes_40k"
SECRET = re.compile("S3cret|Pa55")
ADDRESSES = (
    "http://user:S3cret@127.0.0.1:9/x.pth",
    "http://user:S3cret@127.0.0.1:9",
    "http://user:S3cret/Pa55@127.0.0.1:9/x.pth",
    "http://user:S3cret#Pa55@127.0.0.1:9/x.pth",
    "http://user:S3cret?Pa55@127.0.0.1:9/x.pth",
    "http://user:S3cret@Pa55@127.0.0.1:9/x.pth",
    "http://user:S3cret@[127.0.0.1:9/x.pth",
    "http://S3cret@127.0.0.1:9/x.pth",
    "http://127.0.0.1:9/x.pth?a=b'S3cret)Pa55",
    "http://127.0.0.1:9/x.pth#token=S3cret",
    "http://127.0.0.1:9/x;sig=S3cret/x.pth;sig=Pa55",
    "ftp://user:S3cret@127.0.0.1:9/x.pth",
    "//user:S3cret@127.0.0.1:9/x.pth",
)
MIRRORS = (
    *(address.removesuffix("/x.pth") for address in ADDRESSES),
    "http://user:S3cret,Pa55@127.0.0.1:9",
    "http://user:S3cret Pa55@127.0.0.1:9",
    "http://user Pa55@127.0.0.1:9",
)
# Commands that take a file or a model, where an address may be given by mistake.
COMMANDS = (
    "predict demo IMAGE --checkpoint ADDRESS",
    "predict demo ADDRESS",
    "predict ADDRESS IMAGE",
    "predict hf-hub:ADDRESS IMAGE",
    "predict local-dir:ADDRESS IMAGE",
    "info ADDRESS",
    "log ADDRESS",
    "download ADDRESS",
    "import ADDRESS",
    "verify ADDRESS",
    "cache clear ADDRESS",
    "check-data ADDRESS",
    "evaluate demo ADDRESS",
    "finetune demo ADDRESS --out out",
    "push ADDRESS org/name",
    "push IMAGE ADDRESS",
    "doctor ADDRESS",
    "benchmark ADDRESS",
    "demo --scenes ADDRESS",
    "ADDRESS",
)


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(download, "TRIES", 1)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "image.png").write_bytes(b"")


@pytest.fixture
def quiet(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> Callable[[Callable[[], object]], None]:
    """Return what runs something, and fails if a secret was written anywhere: the screen, the log, an error, a file."""

    def run(call: Callable[[], object]) -> None:
        caplog.clear()
        told = ""
        try:
            with caplog.at_level("DEBUG", logger="hrnet_zoo"):
                call()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - of whatever kind
            told = f"{error!r} {vars(error)} {''.join(traceback.format_exception(error))}"
            # A traceback shows the lines of this file, which name the addresses.
            told = "\n".join(line for line in told.splitlines() if __file__ not in line)
        seen = "".join(capfd.readouterr())
        assert (seen + told).strip(), "nothing was said at all"
        for text in (seen, told, caplog.text):
            assert not SECRET.search(text), text
        for path in tmp_path.rglob("*"):
            assert not SECRET.search(str(path.relative_to(tmp_path))), path
            assert not path.is_file() or not SECRET.search(path.read_bytes().decode("latin-1")), path

    return run


Quiet = Callable[[Callable[[], object]], None]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(command: str, quiet: Quiet) -> None:
    for address in ADDRESSES:
        words = [word.replace("ADDRESS", address).replace("IMAGE", "image.png") for word in command.split()]
        quiet(lambda words=words: main(words))  # type: ignore[misc]
    quiet(lambda: main([*words, "--json"]))


CALLS: dict[str, Callable[[str], Any]] = {
    "checkpoint": lambda address: hrnet_zoo.create_model("demo", checkpoint=address, device="cpu"),
    "name": lambda address: hrnet_zoo.create_model(address),
    "hub": lambda address: hrnet_zoo.create_model(f"hf-hub:{address}"),
    "folder": lambda address: hrnet_zoo.create_model(f"local-dir:{address}"),
    "image": lambda address: hrnet_zoo.create_model("demo", device="cpu").predict(address),
    "info": hrnet_zoo.model_info,
    "log": hrnet_zoo.training_log,
    "data": hrnet_zoo.check_data,
    "doctor": lambda address: hrnet_zoo.doctor(address),
}


@pytest.mark.parametrize("call", CALLS)
def test_calls(call: str, quiet: Quiet) -> None:
    for address in ADDRESSES[:-1]:  # the last is a path to Python, whose own errors show it in a traceback
        quiet(lambda address=address: CALLS[call](address))  # type: ignore[misc]


@pytest.mark.parametrize("setting", ["HRNET_ZOO_MIRRORS", "https_proxy", "HF_ENDPOINT", "HTTPS_PROXY", "all_proxy"])
def test_settings(setting: str, quiet: Quiet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_S3cretS3cretS3cretS3cretS3cretS3cr")
    if setting != "HRNET_ZOO_MIRRORS":
        monkeypatch.setenv("HRNET_ZOO_MIRRORS", "https://127.0.0.1:9")
    for value in MIRRORS if setting in ("HRNET_ZOO_MIRRORS", "HF_ENDPOINT") else MIRRORS[::4]:
        monkeypatch.setenv(setting, value)
        for command in (f"download {ROW}", f"doctor {ROW} --network --json", "predict hf-hub:org/name image.png"):
            quiet(lambda command=command: main(command.split()))  # type: ignore[misc]
        quiet(lambda: hrnet_zoo.create_model(ROW))
        quiet(lambda: hrnet_zoo.create_model("hf-hub:org/name"))


@pytest.mark.parametrize("token", ["hf_S3cret\nS3cret", "hf_S3cretü"])
def test_a_token_that_is_none(token: str, quiet: Quiet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    quiet(lambda: hrnet_zoo.create_model("hf-hub:org/name"))


def test_what_a_success_leaves(
    hr18s: bytes, host: FaultServer, quiet: Quiet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither the cache nor a saved model, which may be shared, tells where from in full."""

    def work() -> None:
        path = "/x;sig=S3cret/mine;sig=Pa55.pth?sig=S3cret"
        host.play("/moved", status(302, {"Location": path}))
        for place in (path, "/moved?sig=S3cret"):
            host.play(place, whole(hr18s))
            address = host.url.replace("//", "//user:Pa55@") + place
            state, provenance = load_custom(address, "hr18s", NETWORK, progress=True)
            assert torch.isfinite(state["backbone.conv1.weight"]).all()
            model = hrnet_zoo.create_model(ROW, checkpoint=address, device="cpu")
            assert "127.0.0.1" in model.provenance["source_url"]
            model.save_pretrained(tmp_path / "saved")
        sys.stdout.write(f"{provenance} {model!r}")

    quiet(work)
