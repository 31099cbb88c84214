"""The command line: data on stdout, errors in four parts on stderr, the right exit code, no traceback."""

import csv
import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

import hrnet_zoo
from hrnet_zoo.cli import main
from hrnet_zoo.datasets import SCENES
from hrnet_zoo.demo.dataset import write_dataset
from hrnet_zoo.engines.optimize import OptimizedModel
from hrnet_zoo.errors import OutputError
from hrnet_zoo.zoo.catalog import DEMO, model_info
from tests.support.http_server import FaultServer, whole

NAME = "fcn_hr18s_cityscapes_40k"


class Run:
    """Runs commands in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.err = ""

    def __call__(self, *arguments: str | Path, code: int = 0) -> str:
        """Run one, expect its exit code, keep what it said in `err`, and return what it printed."""
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        out, self.err = self.capsys.readouterr()
        assert (caught.value.code or 0) == code, self.err
        assert "Traceback" not in self.err
        return out


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


def test_version_and_help(run: Run) -> None:
    assert run("--version") == f"hrnet-zoo, version {hrnet_zoo.__version__}\n"
    text = run("--help")
    with pytest.raises(SystemExit):  # click 8.2 took help that nobody asked for from stdout and 0 to stderr and 2
        main([])
    assert "".join(run.capsys.readouterr()) == text
    for command in (
        *("list", "info", "log", "download", "import", "cache", "verify", "predict", "demo"),
        *("check-data", "evaluate", "benchmark", "doctor"),
    ):
        assert f"\n  {command} " in text


def test_runs_as_a_module() -> None:
    module = subprocess.run([sys.executable, "-m", "hrnet_zoo", "list"], capture_output=True, text=True, check=True)
    assert len(module.stdout.splitlines()) == 24
    assert module.stderr == ""


def test_list_is_the_published_table(run: Run) -> None:
    with (Path(__file__).parents[1] / "data" / "published_rows.csv").open(newline="") as file:
        published = list(csv.DictReader(file))
    listed = json.loads(run("list", "--json"))
    assert len(listed) == 23
    for row, facts in zip(published, listed, strict=True):
        for key, cell in row.items():
            fact = facts[key]
            assert (float(cell) == fact) if isinstance(fact, float) else (("" if fact is None else str(fact)) == cell)


def test_tables_and_help_fit_into_80_columns(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for arguments in (("list",), ("--help",), ("cache", "--help")):
        text = run(*arguments)
        assert max(map(len, text.splitlines())) <= 80, arguments
        assert "..." not in text.replace("[ARGS]...", ""), arguments


def test_list_filters(run: Run) -> None:
    assert len(run("list", "*voc*", "--arch", "hr48").splitlines()) == 3
    run("list", "--dataset", "coco", code=2)
    assert run("list", "cityscapes") == run("list", "*cityscapes*")
    assert run("list", "nothing") == ""
    assert "no model's name has 'nothing' in it" in run.err


def test_info(run: Run) -> None:
    facts = json.loads(run("info", "fcn_hr48_512x1024_160k_cityscapes", "--json"))
    assert facts["name"] == "fcn_hr48_cityscapes_160k"
    assert facts["miou"] == 80.65
    assert facts["classes"][0] == "road"
    assert facts["palette"][0] == [128, 64, 128]
    assert "train_memory_gb         -" in run("info", "fcn_hr48_cityscapes_160k")
    assert "knows                   generated street scenes, and nothing else" in run("info", "demo")


def test_unknown_name(run: Run) -> None:
    assert run("info", "fcn_hr48_cityscapes_16k", code=2) == ""
    assert run.err.startswith("error: the model 'fcn_hr48_cityscapes_16k'\n  found: ")
    assert "fcn_hr48_cityscapes_160k" in run.err


def test_download_refused_and_offline(
    run: Run, hr18s: bytes, host: FaultServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = model_info(NAME)
    host.play(info.checkpoint_url.removeprefix("https://download.openmmlab.com"), whole(hr18s))
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", host.url)
    run("download", NAME, code=4)
    assert "expected 93db27d0" in run.err
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", "http://127.0.0.1:9")
    monkeypatch.setattr("hrnet_zoo.weights.download.TRIES", 1)
    run("download", NAME, code=3)
    monkeypatch.setenv("HRNET_ZOO_OFFLINE", "1")
    run("download", NAME, code=3)
    assert "hrnet-zoo import" in run.err
    run("download", code=2)
    run("download", NAME, "--all", code=2)
    assert not list(cache.rglob("*.safetensors"))


@pytest.fixture
def published(hr18s: bytes, host: FaultServer, monkeypatch: pytest.MonkeyPatch) -> FaultServer:
    """Let the stand-in be what the row states, and serve it."""
    info = dataclasses.replace(model_info(NAME), sha256_prefix=hashlib.sha256(hr18s).hexdigest()[:8])
    for module in ("cli.cache", "zoo.resolve", "zoo.maintenance"):
        monkeypatch.setattr(f"hrnet_zoo.{module}.model_info", lambda _: info)
    monkeypatch.setattr("hrnet_zoo.zoo.catalog._ROWS", (info,))
    host.play(info.checkpoint_url.removeprefix("https://download.openmmlab.com"), whole(hr18s))
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", host.url)
    return host


def test_download_show_clear(run: Run, published: FaultServer, cache: Path, tmp_path: Path) -> None:
    path = Path(run("download", NAME).split()[1])
    assert path.suffix == ".safetensors"
    assert cache in path.parents
    assert json.loads(run("download", NAME, "--json")) == [{"name": NAME, "path": str(path)}]
    assert len(published.requests) == 1
    assert run("cache", "path").strip() == str(cache)
    (model,) = [entry for entry in json.loads(run("cache", "show", "--json")) if entry["kind"] == "model"]
    assert model["path"] == str(path)
    assert model["bytes"] == path.stat().st_size
    assert path.name in run("cache", "show")
    assert run("cache", "clear", NAME).startswith("removed 1 files")
    assert not path.exists()
    run("cache", "clear", code=2)
    copy = Path(run("download", NAME, "--to", tmp_path / "mirror").split()[1])
    assert copy.is_relative_to(tmp_path / "mirror/mmsegmentation/v0.5/hrnet")
    assert run("import", copy) == f"{NAME} {path}\n"
    assert run("cache", "clear", path.name).startswith("removed 1 files")
    run("import", copy)
    assert run("cache", "clear", "--all").startswith("removed 1 files")


def test_verify_prune_repair(run: Run, published: FaultServer, cache: Path) -> None:
    run("verify", NAME, code=5)
    assert "hrnet-zoo download" in run.err
    path = Path(run("download", NAME).split()[1])
    assert run("verify", NAME) == run("verify", "--all") == f"{NAME}: whole\n"
    assert json.loads(run("verify", "--all", "--json")) == [{"name": NAME, "path": str(path), "found": "whole"}]
    run("verify", code=2)
    assert run("cache", "repair") == "nothing is damaged\n"
    body = bytearray(path.read_bytes())
    body[-1] ^= 1
    path.write_bytes(body)
    run("verify", NAME, code=4)
    assert "SHA-256" in run.err
    assert "expected" not in run("verify", "--all", "--json", code=4)
    assert f"{NAME}: was damaged" in run("cache", "repair")
    assert run("verify", "--all") == f"{NAME}: whole\n"
    assert len(published.requests) == 2
    old = path.with_name(path.name.replace("-c2.", "-c1."))
    path.rename(old)
    assert run("cache", "prune").startswith("removed 1 files")
    assert run("cache", "prune").startswith("removed 0 files")
    run("verify", code=2)
    run("verify", NAME, "--all", code=2)


def test_one_failure_does_not_stop_the_others(run: Run, published: FaultServer, tmp_path: Path) -> None:
    (tmp_path / "page.pth").write_text("<html>")
    copy = Path(run("download", NAME, "--to", tmp_path / "mirror").split()[1])
    out = run("import", tmp_path / "page.pth", copy, "--json", code=4)
    assert [entry["name"] for entry in json.loads(out)] == [NAME]
    assert "page.pth" in run.err
    assert published.requests


def test_import_of_something_else(run: Run, tmp_path: Path) -> None:
    (tmp_path / "page.pth").write_text("<html>")
    run("import", tmp_path / "page.pth", code=4)
    run("import", tmp_path / "absent.pth", code=5)


def test_predict_with_the_bundled_network(run: Run, tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (96, 64), (90, 90, 90)).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    out = tmp_path / "out"
    text = run("predict", "demo", tmp_path, "--out", out, "--device", "cpu", code=5)
    first, second = text.splitlines()
    assert first.startswith(f"{tmp_path / 'a.png'}: ")
    assert second.endswith(f"; written: {out / 'b_labels.png'} and {out / 'b_overlay.png'}")
    assert "broken.jpg" in run.err
    assert run.err.endswith("2 of 3 images labeled, 1 failed\n")
    assert "the demo network knows generated street scenes, and nothing else" in run.err
    assert sorted(path.name for path in out.iterdir()) == [
        *("a_labels.png", "a_overlay.png", "b_labels.png", "b_overlay.png"),
    ]
    run("predict", "demo", tmp_path / "a.png", "--out", out, code=5)
    assert "--force" in run.err
    facts = json.loads(
        run("predict", "demo", tmp_path / "a.png", "--out", out, "--force", "--no-overlay", "--json", "--device", "cpu")
    )
    assert facts["images"][0]["overlay"] is None
    assert sum(facts["images"][0]["fractions"].values()) == pytest.approx(1)
    assert facts["failed"] == {}
    options = ("--out", tmp_path / "fast", "--no-overlay", "--json", "--device", "cpu", "--fast", "--dtype", "float32")
    fast = json.loads(run("predict", "demo", tmp_path / "a.png", *options))
    assert fast["images"][0]["fractions"] == pytest.approx(facts["images"][0]["fractions"], abs=1e-3)


def test_what_was_done_is_told_when_something_ends_the_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        Image.new("RGB", (32, 16)).save(tmp_path / f"{name}.png")
    (tmp_path / "out" / "b_labels.png").mkdir(parents=True)  # in the way of a result
    arguments = ("predict", "demo", tmp_path, "--out", tmp_path / "out", "--device", "cpu", "--force")
    text = run(*arguments, code=5)
    assert text.splitlines()[0].startswith(f"{tmp_path / 'a.png'}: ")
    assert "1 of 3 images labeled, 0 failed\n" in run.err
    assert "b_labels.png" in run.err

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hrnet_zoo.inference.folders.predict_files", interrupted)
    assert json.loads(run(*arguments, "--json", code=130)) == {"images": [], "failed": {}}
    assert run.err.split("\n")[-4:] == ["0 of 3 images labeled, 0 failed", "", "interrupted", ""]


def test_predict_bad_arguments(run: Run, tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(image)
    run("predict", "demo", image, "--out", tmp_path / "out", "--device", "cuda:77", code=2)
    assert "devices here: cpu" in run.err
    run("predict", "demo", image, "--out", tmp_path / "out", "--checkpoint", tmp_path / "none.pth", code=5)
    run("predict", "demo", image, "--mode", "tiles", code=2)
    run("predict", "demo", image, "--classes", "only", "--out", tmp_path / "out", code=2)
    run("predict", "demo", image, "--out", tmp_path / "out", "--max-memory", "0", "--device", "cpu", code=2)
    assert "'0' is not a number of bytes" in run.err
    run("demo", "--seed", "1000000", code=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train",), "Use: hrnet-zoo finetune NAME"),
        (("export", "demo"), "torch.export.export"),
        (("serve",), "model.predict"),
        (("evalute",), "Use: hrnet-zoo evaluate"),
        (("x" * 30,), "Use: hrnet-zoo --help"),
        (("predict", "street.jpg"), "hrnet-zoo predict demo street.jpg"),
        (("predict", "street.jpg", "other.jpg"), "hrnet-zoo predict demo street.jpg"),
        (("predict", "demo", "https://example.org/street.jpg"), "fetch the address first"),
        (("predict", "demo", "street.jpg", "--out", "labeled.png"), "--out labeled"),
        (("predict", "model.pth", "street.jpg"), "--checkpoint"),
        (("info", "hrnet_w48"), "fcn_hr48_ade20k_160k"),
        (("benchmark", "absent/model"), "hf-hub:absent/model"),
    ],
)
def test_what_people_type_elsewhere_leads_to_what_to_type_here(
    arguments: tuple[str, ...], words: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("street.jpg", "other.jpg"):
        Image.new("RGB", (8, 8)).save(name)
    run(*arguments, code=2)
    assert words in run.err
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["other.jpg", "street.jpg"]


def test_a_folder_is_a_name_everywhere(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hrnet_zoo.create_model("demo", device="cpu").save_pretrained("runs/a")
    Image.new("RGB", (32, 16)).save("a.png")
    assert run("info", "runs/a").splitlines()[0].split() == ["name", "local-dir:runs/a"]
    run("predict", "runs/a", "a.png", "--device", "cpu")
    assert run("verify", "runs/a") == "local-dir:runs/a: whole\n"
    run("log", "runs/a", code=2)
    assert "runs/a" in run.err
    run("info", "runs", code=5)
    assert "no model.safetensors there" in run.err


HOSTILE = "a\x1b]52;c;Y3VybA\x07\x1b[2K\rerror: nothing is wrong\nb\u202e"  # as archives and shared folders bring it


@pytest.mark.skipif(sys.platform == "win32", reason="names that Windows cannot have")
def test_foreign_names_reach_no_terminal_raw(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of files, folders, classes, models and options: OSC 52 would write the clipboard, a line break forge a line."""
    monkeypatch.chdir(tmp_path)
    for folder in ("in", "data/images", "data/masks"):
        Path(folder).mkdir(parents=True)
        Image.new("L", (16, 16)).save(f"{folder}/{HOSTILE}.png")
    Path(f"in/{HOSTILE}.jpg").write_text("x")
    Path(f"data/images/{HOSTILE}2.png").write_text("x")
    Path("data/classes.txt").write_text("cl\x1b[31mred\nb\n")
    cases: list[tuple[int, tuple[str, ...]]] = [
        (5, ("predict", "demo", "in", "--out", "out", "--device", "cpu")),
        (5, ("predict", "demo", f"nothing{HOSTILE}", "--out", "out2")),
        (5, ("predict", "demo", f"in/{HOSTILE}.png", "--checkpoint", f"x{HOSTILE}.pth", "--out", "out2")),
        (0, ("predict", "demo", f"in/{HOSTILE}.png", "--classes", f"{HOSTILE},b", "--out", HOSTILE)),
        (2, ("predict", "demo", f"in/{HOSTILE}.png", f"--{HOSTILE}")),
        (5, ("check-data", "data")),
        (5, ("check-data", HOSTILE)),
        (5, ("evaluate", "demo", "data")),
        (5, ("finetune", "demo", "--data", "data", "--out", "ft")),
        (4, ("import", f"in/{HOSTILE}.jpg")),
        (2, ("info", f"{HOSTILE}!")),
        (2, ("info", "demo", HOSTILE)),
        (2, (HOSTILE,)),
        (5, ("info", f"local-dir:{HOSTILE}")),
        (2, ("list", "--dataset", HOSTILE)),
        (2, ("doctor", "demo", "--device", HOSTILE)),
    ]
    for code, arguments in cases:
        out = run(*arguments, code=code)
        text = f"{out}\n{run.err}\n{caplog.text}"
        assert not set(text) & set("\x1b\x07\r\u202e"), arguments
        assert "\nerror: nothing" not in text, arguments
        caplog.clear()
    (done,) = json.loads(run("predict", "demo", "in", "--out", "out3", "--json", "--device", "cpu", code=5))["images"]
    assert done["image"] == f"in/{HOSTILE}.png"  # JSON is exact


def test_unwritable_cache(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HRNET_ZOO_CACHE", str(tmp_path / "file"))
    run("download", NAME, code=6)
    assert "HRNET_ZOO_CACHE" in run.err
    run("demo", "--out", tmp_path / "out", "--scenes", "1", "--device", "cpu")  # which needs none


def test_demo(run: Run, tmp_path: Path) -> None:
    text = run("demo", "--out", tmp_path / "out", "--scenes", "2", "--device", "cpu")
    assert "mIoU" in text
    assert "on 2 scenes never seen in training" in text
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert made == ["scene_0000.png", "scene_0001.png", "street.jpg"]
    photo = (tmp_path / "out" / "street.jpg").read_bytes()
    facts = json.loads(
        run("demo", "--out", tmp_path / "out", "--scenes", "1", "--seed", "7", "--json", "--device", "cpu")
    )
    assert 0 < facts["miou"] <= 1
    assert facts["images"] == [str(tmp_path / "out" / "scene_0007.png")]
    assert facts["photo"] == str(tmp_path / "out" / "street.jpg")
    assert (tmp_path / "out" / "street.jpg").read_bytes() == photo  # one that is there stays


def test_evaluate_generated_scenes(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEMO.__dict__, "dataset", dataclasses.replace(SCENES, val_images=2))
    data = tmp_path / "scenes"
    assert run("demo", "--as-dataset", "--scenes", "2", "--out", data) == f"2 scenes in {data}\n"
    options = ("--device", "cpu", "--workers", "0")
    text = run("evaluate", "demo", data, *options)
    assert "published 80.76 on generated street scenes, difference" in text
    assert any(line.split()[:1] == ["bicycle"] for line in text.splitlines())
    saved = tmp_path / "figures.json"
    facts = json.loads(run("evaluate", "demo", data, "--limit", "1", "--save", saved, "--json", *options))
    assert facts == json.loads(saved.read_text(encoding="utf-8"))
    assert facts["images"] == 1
    assert facts["published_miou"] is None
    assert (
        json.loads(run("evaluate", "demo", data, "--limit", "1", "--max-memory", "30MB", "--json", *options)) == facts
    )
    fast = json.loads(run("evaluate", "demo", data, "--limit", "1", "--fast", "--json", *options))
    assert fast["miou"] == pytest.approx(facts["miou"], abs=0.1)
    assert (facts["engine"], facts["dtype"]) == ("exact", "float32")
    assert fast["engine"] in ("onednn", "pytorch")


@pytest.mark.parametrize("native", [True, False])
def test_fast_is_the_same_in_python_and_in_the_commands(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    """In one dtype, whatever the processor's is, unless another one is asked for."""
    seen: list[tuple[str, torch.dtype]] = []
    real = OptimizedModel.logits_stride4

    def spied(self: OptimizedModel, x: torch.Tensor) -> torch.Tensor:
        seen.append((self.engine, x.dtype))
        return real(self, x)

    monkeypatch.setattr(OptimizedModel, "logits_stride4", spied)
    monkeypatch.setattr("hrnet_zoo.engines.onednn.has_native_bfloat16", lambda: native)
    data = tmp_path / "scenes"
    run("demo", "--as-dataset", "--scenes", "1", "--out", data)
    image = next(data.rglob("*_leftImg8bit.png"))
    model = hrnet_zoo.create_model("demo", device="cpu")
    model.predict(image, fast=True)
    hrnet_zoo.evaluate(model, data, workers=0, fast=True)
    run("predict", "demo", image, "--fast", "--device", "cpu", "--no-overlay", "--out", tmp_path / "out")
    run("evaluate", "demo", data, "--fast", "--device", "cpu", "--workers", "0")
    assert len(seen) == 4
    assert set(seen) == {(hrnet_zoo.optimize(model).engine, torch.bfloat16 if native else torch.float32)}
    run("evaluate", "demo", data, "--fast", "--device", "cpu", "--workers", "0", "--dtype", "float16")
    assert seen[-1][1] == torch.float16


def test_evaluate_bad_input(run: Run, tmp_path: Path) -> None:
    assert run("evaluate", "demo", tmp_path, "--device", "cpu", code=5) == ""
    assert "leftImg8bit" in run.err
    run("evaluate", "demo", tmp_path, "--max-memory", "lots", code=2)
    assert "500MB" in run.err


def test_evaluate_looks_before_it_loads(
    run: Run, tmp_path: Path, host: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", host.url)
    (tmp_path / "file").touch()
    for name in ("absent", "file"):
        run("evaluate", NAME, tmp_path / name, code=5)
        assert "found: no such folder" in run.err
    run("evaluate", NAME, tmp_path, "--save", tmp_path / "absent" / "figures.json", code=5)
    assert f"there is no folder {tmp_path / 'absent'}" in run.err
    run("evaluate", NAME, tmp_path, "--save", tmp_path, code=2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    run("evaluate", NAME, tmp_path, "--save", tmp_path / "figures.json", code=2)
    assert "RANK is ''" in run.err
    assert host.requests == []


def test_evaluate_shows_its_figures_even_if_they_cannot_be_saved(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OutputError(asked="a", found="no space", done="c", advice="d", path=tmp_path)

    write_dataset(tmp_path / "scenes", seeds=[0], progress=False)
    monkeypatch.setattr("hrnet_zoo.evaluation.evaluate.atomic_write", full)
    options = ("--device", "cpu", "--workers", "0", "--save", tmp_path / "figures.json")
    text = run("evaluate", "demo", tmp_path / "scenes", *options, code=5)
    assert "1 of 50 images; Cityscapes val, one scale, whole image, float32 on cpu" in text
    assert "published" not in text
    assert "no space" in run.err


def test_evaluate_is_in_float32_on_the_gpu_of_this_process(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def load(name: str, device: str | None, dtype: str, *_: object) -> None:
        asked.append((device, dtype))
        raise OutputError(asked="a", found="b", done="c", advice="d", path=tmp_path)

    monkeypatch.setattr("hrnet_zoo.cli.options.load_model", load)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", "3")
    for options in ((), ("--device", "cuda", "--dtype", "float16"), ("--device", "cpu")):
        run("evaluate", "demo", tmp_path, *options, code=5)
    assert asked == [("cuda:3", "float32"), ("cuda:3", "float16"), ("cpu", "float32")]
    assert "Default: float32" in run("evaluate", "--help")


def test_demo_as_dataset_takes_an_empty_folder_and_no_device(run: Run, tmp_path: Path) -> None:
    for options in (("--device", "cpu"), ("--dtype", "float16")):
        run("demo", "--as-dataset", "--scenes", "1", "--out", tmp_path / "new", *options, code=2)
        assert "--as-dataset only fills a new folder" in run.err
    (tmp_path / "notes.txt").touch()
    run("demo", "--as-dataset", "--scenes", "1", "--out", tmp_path, code=5)
    assert "holds something already" in run.err


def test_interrupted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hrnet_zoo.cli.catalog.model_info", interrupt)
    run("info", NAME, code=130)
    assert "interrupted" in run.err


def test_a_reader_that_has_left() -> None:
    """Write into a pipe that nobody reads any more, as after `| head`."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        command = [sys.executable, "-W", "error", "-m", "hrnet_zoo", "list", "--json"]
        piped = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, text=True, check=False)  # noqa: S603
    finally:
        os.close(write_end)
    assert piped.stderr == ""
    assert piped.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("shell", "code", "words"),
    [
        ("list >/dev/full", 1, "error: the output could not be written: No space left on device"),
        ("list >&-", 0, ""),
        ("info absent 2>&-", 2, ""),
        ("info absent 2>/dev/full", 2, ""),
        ("nonsense 2>/dev/full", 2, ""),
        ("info absent >&- 2>&-", 2, ""),
    ],
)
def test_streams_that_take_nothing(shell: str, code: int, words: str) -> None:
    command = f'"$0" -W error -m hrnet_zoo {shell}'
    done = subprocess.run(["sh", "-c", command, sys.executable], capture_output=True, text=True, check=False)  # noqa: S603, S607
    assert done.returncode == code
    assert done.stderr.strip() == words
    assert words or not done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="names as bytes")
def test_a_console_of_few_letters() -> None:
    """Names in other letters, or in no encoding at all, are shown with escapes."""
    for name, shown in ((b"\xd0\xb9", "\\u0439"), (b"\xe4", "\\udce4")):
        environment = dict(os.environ, PYTHONIOENCODING="cp1252", HRNET_ZOO_CACHE=os.fsdecode(b"/" + name))
        command = [sys.executable, "-W", "error", "-m", "hrnet_zoo", "cache", "path"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)  # noqa: S603
        assert (done.returncode, done.stdout, done.stderr) == (0, f"/{shown}\n", "")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(
    ("sent", "code", "option"), [(signal.SIGINT, 130, "--device=cpu"), (signal.SIGTERM, 143, "--as-dataset")]
)
def test_signals(sent: signal.Signals, code: int, option: str, tmp_path: Path) -> None:
    """In the middle of its work a command ends with the signal's code, leaves whole files alone, and shows no trace."""
    command = [sys.executable, "-W", "error", "-m", "hrnet_zoo", "demo", "--scenes", "1000", option]
    child = subprocess.Popen(  # noqa: S603
        [*command, "--out", str(tmp_path / "out")],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )
    try:
        while child.poll() is None and len(list(tmp_path.glob("out/**/*.png"))) < 2:
            time.sleep(0.02)
        child.send_signal(sent)
        _, err = child.communicate(timeout=60)
    finally:
        child.kill()  # if it did not end
    assert child.returncode == code, err
    assert err.strip() == ("interrupted" if sent == signal.SIGINT else "")
    made = [path for path in tmp_path.glob("out/**/*") if path.is_file()]
    assert len(made) >= 2
    for path in made:
        assert path.suffix == ".png"
        with Image.open(path) as image:
            image.load()


@pytest.mark.parametrize("command", ["evaluate", "log", "demo", "predict"])
def test_nothing_is_overwritten_unasked(command: str, run: Run, tmp_path: Path, host: FaultServer) -> None:
    """The refusal comes before any work, and leaves what is there."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    mine = tmp_path / {"demo": "scene_0001.png", "predict": "a_overlay.png"}.get(command, "mine.svg")
    mine.write_bytes(b"mine")
    arguments = {
        "evaluate": ("demo", tmp_path, "--save", mine),
        "log": (NAME, "--plot", mine),
        "demo": ("--scenes", "2", "--out", tmp_path),
        "predict": ("demo", tmp_path / "a.png", "--out", tmp_path),
    }
    run(command, *arguments[command], code=5)
    assert "exists already" in run.err
    assert "--force" in run.err
    assert mine.read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(("a.png", mine.name))
    run("demo", "--as-dataset", "--force", code=2)
    assert host.requests == []
