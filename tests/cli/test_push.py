"""The command `push`, and the other commands on what was saved and shared."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from hrnet_zoo.cli import main
from hrnet_zoo.demo.dataset import write_dataset
from hrnet_zoo.demo.scenes import scene
from tests.support.hub_server import Hub

# Of httpx, about how huggingface_hub sends a file
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    return call


def test_push(hub: Hub, demo_folder: Path, run: Run) -> None:
    code, out, _ = run("push", demo_folder, "me/street", "--json")
    (commit,) = hub.repos["me/street"].commits
    assert code == 0
    assert json.loads(out)["commit"] == commit
    code, out, _ = run("push", "--published", "lab", "demo", "--public")
    assert code == 0
    assert out.startswith("hf-hub:lab/demo@")
    assert not hub.repos["lab/demo"].private
    hub.forbid = True
    code, _, told = run("push", demo_folder, "me/street")
    assert code == 3
    assert "HTTP status 403" in told


@pytest.mark.parametrize("words", [("a",), ("a", "b", "c"), ("--published", "lab", "--revision", "x"), ()])
def test_misuse(words: tuple[str, ...], hub: Hub, run: Run) -> None:
    assert run("push", *words)[0] == 2
    assert not hub.requests


def test_every_command_takes_a_saved_model(demo_folder: Path, run: Run, tmp_path: Path) -> None:
    name = f"local-dir:{demo_folder}"
    Image.fromarray(scene(0, 96, 192).image).save(tmp_path / "street.png")
    write_dataset(tmp_path / "scenes", seeds=[0], progress=False)
    assert run("predict", name, tmp_path / "street.png", "--out", tmp_path / "out")[0] == 0
    code, out, _ = run("evaluate", name, tmp_path / "scenes", "--json", "--workers", 0)
    assert code == 0
    assert json.loads(out)["model"] == name
    assert json.loads(out)["published_miou"] is None
    code, out, _ = run("doctor", name)
    assert code == 0
    assert out.endswith("verdict: fine\n")
    code, out, _ = run("info", name)
    assert code == 0
    assert "classes                 road, sidewalk" in out
    assert "\nmetrics\n  miou                  80.76\n" in out
    assert json.loads(run("info", name, "--json")[1])["parent"]["name"] == "demo"


@pytest.mark.parametrize("words", [("benchmark", "--table"), ("download",), ("cache", "clear")])
def test_commands_about_published_models_say_so(words: tuple[str, ...], demo_folder: Path, run: Run) -> None:
    code, _, told = run(*words, f"local-dir:{demo_folder}")
    assert code == 2
    assert "of a saved model" in told


def test_info_of_a_shared_model(hub: Hub, demo_folder: Path, run: Run) -> None:
    commit = hub.add("me/street", {path.name: path.read_bytes() for path in demo_folder.iterdir()})
    code, out, _ = run("info", "hf-hub:me/street")
    assert code == 0
    assert out.startswith(f"name                    hf-hub:me/street@{commit}")
    assert not any("GET" in each and "safetensors" in each for each in hub.requests)
    assert run("info", "hf-hub:me/absent")[0] == 3


def test_doctor_tells_of_damage(demo_folder: Path, run: Run, tmp_path: Path) -> None:
    path = Path(shutil.copytree(demo_folder, tmp_path / "a")) / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    code, _, told = run("doctor", f"local-dir:{path.parent}")
    assert code == 4
    assert "SHA-256" in told
