"""What every test shares: no connection beyond this machine, a cache of its own, no settings of the user's."""

import os

# Each worker of pytest-xdist, and each process that a test starts, takes one core; torch reads this when imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import dataclasses
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.support.http_server import FaultServer, serve

if TYPE_CHECKING:
    from tests.support.hub_server import Hub

SHARED = Path(__file__).parents[2] / "shared"
LOCAL_NAMES = {None, "", "localhost", "localhost.localdomain", "::1", "0.0.0.0", "::"}  # noqa: S104 - names, no binding


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--raise-sites", metavar="FILE", help="write whose messages were read: tests/support/raise_sites.py"
    )


def pytest_configure(config: pytest.Config) -> None:
    if report := config.getoption("--raise-sites"):
        from tests.support.raise_sites import Recorder

        recorder = Recorder()
        recorder.start()
        config.add_cleanup(lambda: recorder.write(Path(report)))


class NetworkForbiddenError(RuntimeError):
    """A test tried to reach another machine (no OSError, so that no retry loop swallows it)."""


def _is_local(host: object) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    return name in LOCAL_NAMES or (isinstance(name, str) and name.startswith("127."))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    real_getaddrinfo = socket.getaddrinfo

    def guarded(name: str, address_at: int) -> Any:
        real = getattr(socket.socket, name)

        def call(self: socket.socket, *args: Any) -> Any:
            if self.family != socket.AF_UNIX and not _is_local(args[address_at][0]):
                raise NetworkForbiddenError(f"{name} to {args[address_at]}")
            return real(self, *args)

        return call

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if not _is_local(host):
            raise NetworkForbiddenError(f"look-up of {host}")
        return real_getaddrinfo(host, *args, **kwargs)

    for name, address_at in (("connect", 0), ("connect_ex", 0), ("sendto", -1)):
        monkeypatch.setattr(socket.socket, name, guarded(name, address_at))
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test an empty cache folder and none of the user's settings."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("HRNET_ZOO_CACHE", str(folder))
    for name in (
        "HRNET_ZOO_MIRRORS",
        "HRNET_ZOO_OFFLINE",
        "HF_HUB_OFFLINE",
        "http_proxy",
        "https_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """Find the folder of golden cases beside a developer's checkout; tests that need it skip elsewhere."""
    if not SHARED.is_dir():
        pytest.skip("the golden cases beside the checkout (../shared) are not here")
    return SHARED


@pytest.fixture(scope="session")
def hr18s() -> bytes:
    """Make a stand-in for a published W18-Small Cityscapes file: seeded weights in the published format."""
    from hrnet_zoo.datasets import CITYSCAPES
    from hrnet_zoo.models.fcn import FCNHRNet
    from hrnet_zoo.zoo.create import initialize
    from tests.support.checkpoints import legacy

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = FCNHRNet("hr18s", CITYSCAPES)
        initialize(network)
    return legacy(network.state_dict())


@pytest.fixture
def host() -> Iterator[FaultServer]:
    """Run a web server on this machine."""
    with serve() as server:
        yield server


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save the demo network as a model folder; tests that change it take a copy."""
    from hrnet_zoo.zoo.create import create_model

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HRNET_ZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        model = create_model("demo", device="cpu")
        return model.save_pretrained(tmp_path_factory.mktemp("models") / "demo", metrics={"miou": 80.76})


@pytest.fixture
def quick_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the bundled network see images at 64 x 128, and its fast forms be timed on as many pixels, to be quick."""
    from hrnet_zoo.datasets import SCENES
    from hrnet_zoo.zoo.catalog import DEMO

    monkeypatch.setitem(DEMO.__dict__, "dataset", dataclasses.replace(SCENES, resize_to=(128, 64)))
    monkeypatch.setattr("hrnet_zoo.engines.choice.SIZE", (64, 128))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["Hub"]:
    """Run a Hub on this machine, the only one that huggingface_hub knows of."""
    from tests.support.hub_server import connected

    with connected(tmp_path, monkeypatch) as running:
        yield running
