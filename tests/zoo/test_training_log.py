"""Training logs as mmcv writes them, with their irregularities, from a host on this machine to columns and plots."""

import json
import math
import socket
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import hrnet_zoo
from hrnet_zoo.cli import main
from hrnet_zoo.errors import (
    ConfigError,
    HTTPStatusError,
    OfflineError,
    OutputError,
    UnexpectedContentError,
    UnknownModelError,
)
from hrnet_zoo.weights import cache
from hrnet_zoo.zoo.catalog import model_info
from hrnet_zoo.zoo.maintenance import repair
from hrnet_zoo.zoo.training_log import MAX_COLUMNS, TrainingLog, parse_log, training_log
from tests.support.http_server import FaultServer, ranged, status, whole

NAME = "fcn_hr18s_cityscapes_40k"
ENVIRONMENT = {
    "env_info": "sys.platform: linux\nPython: 3.7.7 (default)\nGPU 0,1,2,3: Tesla V100\nPyTorch: 1.5.0\n"
    "PyTorch compiling details: PyTorch built with:\n  - GCC 7.3\nMMCV: 0.6.0\nMMSegmentation: 0.5.0+b57fb2b",
    "seed": None,
    "exp_name": "fcn_hr18s_512x1024_40k_cityscapes.py",
}


def train_line(iteration: int, **more: Any) -> dict[str, Any]:
    return {
        "mode": "train",
        "epoch": 1,
        "iter": iteration,
        "lr": 0.01 * (1 - iteration / 40_000) ** 0.9,
        "memory": 1677,
        "data_time": 0.0112,
        "decode.loss_seg": 40 / iteration,
        "decode.acc_seg": 51.5,
        "loss": 40 / iteration,
        "time": 0.27,
        **more,
    }


def val_line(iteration: int, miou: float, **more: Any) -> dict[str, Any]:
    figures = {"mIoU": miou, "mAcc": miou + 0.05, "aAcc": 0.95}
    return {"mode": "val", "epoch": 1, "iter": iteration, "lr": 0.005, **figures, **more}


def plain_log() -> list[dict[str, Any]]:
    """Return the lines of a run of 400 iterations, validated at 200 and 400, as mmsegmentation 0.5 wrote them."""
    first = [train_line(iteration) for iteration in (50, 100, 150)]
    second = [train_line(iteration) for iteration in (250, 300, 350)]
    return [ENVIRONMENT, *first, val_line(200, 0.51), *second, val_line(400, 0.62)]


def body(lines: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def path_of(name: str) -> str:
    url = model_info(name).log_url
    assert url is not None
    return url.removeprefix("https://download.openmmlab.com")


@pytest.fixture
def mirror(host: FaultServer, monkeypatch: pytest.MonkeyPatch) -> FaultServer:
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", host.url)
    return host


def read(mirror: FaultServer, content: bytes) -> TrainingLog:
    mirror.play(path_of(NAME), whole(content))
    return training_log(NAME, progress=False)


def logs_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.log.json"))


# --- columns ---------------------------------------------------------------------------------------------------------


def test_columns(mirror: FaultServer) -> None:
    log = read(mirror, body(plain_log()))
    assert log.name == NAME
    assert log.environment == ENVIRONMENT
    assert log.train["iter"] == [50, 100, 150, 250, 300, 350]
    assert log.train["loss"] == [40 / iteration for iteration in (50, 100, 150, 250, 300, 350)]
    assert log.train["decode.acc_seg"] == [51.5] * 6
    assert log.val == {
        "epoch": [1, 1],
        "iter": [200, 400],
        "lr": [0.005, 0.005],
        "mIoU": [0.51, 0.62],
        "mAcc": [0.51 + 0.05, 0.62 + 0.05],
        "aAcc": [0.95, 0.95],
    }
    assert log.best == (400, 0.62)


def test_an_alias_and_the_public_name(mirror: FaultServer) -> None:
    read(mirror, body(plain_log()))
    assert hrnet_zoo.training_log("fcn_hr18s_512x1024_40k_cityscapes").name == NAME


def test_missing_and_unknown_keys(mirror: FaultServer) -> None:
    lines = [
        ENVIRONMENT,
        train_line(50, note="warm-up", momentum=0.9),
        {"mode": "train", "iter": 100, "loss": math.nan, "memory": None},
        train_line(150, **{"aux.loss": 2.5}),
        val_line(200, 73.9, **{"IoU.road": 98.1}),
    ]
    log = read(mirror, body(lines))
    assert log.train["note"][0] == "warm-up"
    assert log.train["momentum"][0] == 0.9
    for key in ("note", "momentum", "loss", "memory", "lr"):
        assert math.isnan(log.train[key][1])
    assert log.train["memory"][::2] == [1677, 1677]
    assert math.isnan(log.train["aux.loss"][0])
    assert log.train["aux.loss"][2] == 2.5
    assert log.val["IoU.road"] == [98.1]
    assert log.best == (200, 73.9)  # nothing is rescaled
    assert {len(column) for column in log.train.values()} == {3}


@pytest.mark.parametrize("count", [125, 5105])  # fewer batches than iterations, and more, as Pascal Context has
def test_val_lines_that_count_batches_or_state_nothing(count: int, mirror: FaultServer) -> None:
    """They get the iteration of the training line before them."""
    lines = [*plain_log(), train_line(450), val_line(500, 0.63), train_line(550)]
    lines[4]["iter"] = count
    del lines[8]["iter"]
    assert read(mirror, body(lines)).val["iter"] == [150, 350, 500]


def test_val_lines_around_a_resumed_run(mirror: FaultServer) -> None:
    """The run was killed after validating at 200 and went on from 100; a val line stands before all training too."""
    lines = plain_log()
    log = read(mirror, body([val_line(0, 0.01), *lines[:5], ENVIRONMENT, *lines[2:]]))
    assert log.train["iter"] == [50, 100, 150, 100, 150, 250, 300, 350]
    assert log.val["iter"] == [0, 200, 200, 400]


def test_a_log_without_environment_or_validation(mirror: FaultServer) -> None:
    log = read(mirror, b"\xef\xbb\xbf" + body(plain_log()[1:4]).replace(b"\n", b"\r\n\r\n"))
    assert log.environment == {}
    assert log.val == {}
    assert log.best is None
    assert log.train["iter"] == [50, 100, 150]


def test_a_log_with_the_environment_alone(mirror: FaultServer) -> None:
    log = read(mirror, body([ENVIRONMENT]))
    assert (log.environment, log.train, log.val) == (ENVIRONMENT, {}, {})


def test_other_modes_are_left_out(mirror: FaultServer) -> None:
    log = read(mirror, body([*plain_log(), {"mode": "test", "iter": 9}, {"mode": ["train"]}]))
    assert (len(log.train["iter"]), len(log.val["iter"])) == (6, 2)


def test_numbers_beyond_every_range(mirror: FaultServer, tmp_path: Path) -> None:
    lines = body(plain_log()).replace(b'"memory": 1677', b'"memory": ' + b"9" * 4000)
    log = read(mirror, lines.replace(b'"loss": 0.8', b'"loss": Infinity'))
    assert log.to_dict()["train"]["loss"][0] is None
    log.save_plot(tmp_path / "plot.svg")


def test_to_dict_is_strict_json(mirror: FaultServer) -> None:
    facts = read(mirror, body([*plain_log(), {"mode": "train", "loss": math.inf}])).to_dict()
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert facts["train"]["loss"][-1] is None
    assert facts["train"]["iter"][-1] is None
    assert facts["environment"]["seed"] is None
    assert facts["best"] == {"iter": 400, "mIoU": 0.62}
    assert sorted(facts) == ["best", "environment", "name", "train", "val"]


# --- broken lines ----------------------------------------------------------------------------------------------------


def test_cut_off_in_the_last_line(mirror: FaultServer, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = read(mirror, body(plain_log())[:-30])
    assert log.train["iter"] == [50, 100, 150, 250, 300, 350]
    assert log.val["iter"] == [200]
    assert caplog.messages == [f"the training log of {NAME} is cut off in its last line, which is left out"]
    assert len(logs_in(cache)) == 1


@pytest.mark.parametrize("line", [b'{"mode": "train", "it', b"5", b"[" * 100_000, b"\xff\xfe{}", b"null"])
def test_broken_in_the_middle(line: bytes, mirror: FaultServer, cache: Path) -> None:
    lines = body(plain_log()).splitlines(keepends=True)
    with pytest.raises(UnexpectedContentError, match="line 4 is no JSON object") as caught:
        read(mirror, b"".join([*lines[:3], line + b"\n", *lines[4:]]))
    assert len(str(caught.value)) < 1500
    assert not [path for path in cache.rglob("*") if path.is_file() and path.suffix not in {".lock", ".TAG"}]
    assert len(read(mirror, body(plain_log())).train["iter"]) == 6  # the host has mended it


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b'{"error": "no such file"}\n', "neither a line of training nor the environment"),
        (b'{"mode": "val", "iter": 1, "mIoU": 0.5}\n', "neither a line of training nor the environment"),
        (b"not found", "neither a line of training nor the environment"),
        (b"\x80\x02}q\x00.\n" * 2, "line 1 is no JSON object"),
        (b"\n" * 9, "neither a line of training nor the environment"),
        (b"", "begins with b''"),
        (b"<html>sign in</html>", "begins with b'<html>"),
        (body(train_line(50 + i, **{f"key {i}": 1}) for i in range(MAX_COLUMNS)), "more than 1000 different keys"),
    ],
)
def test_something_else_than_a_log(content: bytes, found: str, mirror: FaultServer, cache: Path) -> None:
    with pytest.raises(UnexpectedContentError) as caught:
        read(mirror, content)
    assert found in caught.value.found
    assert "import" not in caught.value.advice
    assert logs_in(cache) == []


def test_a_page_in_place_of_the_log(mirror: FaultServer, cache: Path) -> None:
    mirror.play(path_of(NAME), status(200, {"Content-Type": "text/html"}, body(plain_log())))
    with pytest.raises(UnexpectedContentError, match="login or error page"):
        training_log(NAME, progress=False)
    assert logs_in(cache) == []


# --- fetched once ----------------------------------------------------------------------------------------------------


def test_second_call_opens_no_socket_and_writes_nothing(
    mirror: FaultServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read(mirror, body(plain_log()))
    assert logs_in(cache) == ["fcn_hr18s_512x1024_40k_cityscapes_20200601_014216.log.json"]
    assert (cache / "v1" / "logs" / logs_in(cache)[0]).read_bytes() == body(plain_log())
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a warm call needs no connection")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setenv("HRNET_ZOO_OFFLINE", "1")
    assert training_log(NAME) == first
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == before
    assert len(mirror.requests) == 1


def test_resumed_by_the_next_call(mirror: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    content = body(plain_log())
    half = len(content) // 2
    monkeypatch.setattr("time.sleep", lambda _: None)
    mirror.play(path_of(NAME), ranged(content, stop=half), status(404), ranged(content))
    with pytest.raises(HTTPStatusError, match="HRNET_ZOO_MIRRORS=file:///FOLDER"):
        training_log(NAME, progress=False)
    assert training_log(NAME, progress=False).best == (400, 0.62)
    assert mirror.requests[-1].headers["Range"] == f"bytes={half}-"


def test_next_mirror_when_one_has_something_else(
    host: FaultServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.play("/wrong" + path_of(NAME), whole(b'{"error": 404}'))
    host.play("/good" + path_of(NAME), whole(body(plain_log())))
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", f"{host.url}/wrong {host.url}/good")
    assert len(training_log(NAME, progress=False).train["iter"]) == 6
    assert len(logs_in(cache)) == 1


def test_offline_says_how_to_bring_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRNET_ZOO_OFFLINE", "1")
    with pytest.raises(OfflineError) as caught:
        training_log(NAME, progress=False)
    place = path_of(NAME).lstrip("/")
    assert f"put the log in a folder as {place}" in caught.value.advice
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_bytes(body(plain_log()))
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", tmp_path.as_uri())
    assert training_log(NAME, progress=False).best == (400, 0.62)


def test_a_damaged_cached_log_is_refused_and_repaired(mirror: FaultServer, cache: Path) -> None:
    first = read(mirror, body(plain_log()))
    (cache / "v1" / "logs" / logs_in(cache)[0]).write_bytes(b"rotten\nand rotten\n")
    with pytest.raises(UnexpectedContentError, match="hrnet-zoo cache repair"):
        training_log(NAME, progress=False)
    assert len(repair(progress=False)) == 1
    assert training_log(NAME, progress=False) == first


@pytest.mark.parametrize("length", [40, 80])
def test_the_two_addresses_with_a_hyphen(length: int, mirror: FaultServer, cache: Path) -> None:
    name = f"fcn_hr48_pascal_context_{length}k"
    stamp = {40: "20200911_164852", 80: "20200911_155322"}[length]
    stem = f"fcn_hr48_480x480_{length}k_pascal_context"
    mirror.play(f"/mmsegmentation/v0.5/hrnet/{stem}/{stem}-{stamp}.log.json", whole(body(plain_log())))
    assert training_log(name, progress=False).name == name
    assert logs_in(cache) == [f"{stem}-{stamp}.log.json"]


def test_names_without_a_log() -> None:
    with pytest.raises(ConfigError, match="no log of its training was published"):
        training_log("demo")
    with pytest.raises(UnknownModelError):
        training_log("fcn_hr18s_cityscapes_41k")


# --- plots -----------------------------------------------------------------------------------------------------------


def test_plots(mirror: FaultServer, tmp_path: Path) -> None:
    log = read(mirror, body(plain_log()))
    starts = {"a.png": b"\x89PNG", "b.SVG": b"<?xml", "c.pdf": b"%PDF"}
    for name, start in starts.items():
        log.save_plot(tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (1200, 675)
        colors = {color for _, color in image.convert("RGB").getcolors(1 << 24) or []}
    assert {(31, 119, 180), (255, 127, 14)} <= colors  # the line of the loss, and the marks of the mIoU
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.SVG", "c.pdf", "cache"]
    assert "matplotlib.pyplot" not in sys.modules


def test_plot_without_validation_and_without_training(mirror: FaultServer, tmp_path: Path) -> None:
    read(mirror, body(plain_log()[:4])).save_plot(str(tmp_path / "a.svg"))
    cache.clear()
    read(mirror, body([ENVIRONMENT])).save_plot(tmp_path / "b.svg")
    assert (tmp_path / "a.svg").stat().st_size > (tmp_path / "b.svg").stat().st_size


@pytest.mark.parametrize(
    "value", ["1e308", "-1e308", "NaN", "-1", '"a"', "1" + 400 * "0", 19 * "9", "1e17", "[1]", "{}", "true", "null"]
)
@pytest.mark.filterwarnings("error")
def test_an_iter_that_is_none_is_left_out(value: str, tmp_path: Path) -> None:
    lines = [
        '{"mode": "train", "iter": 10, "loss": 1.5}',
        f'{{"mode": "train", "iter": {value}, "loss": 0.5}}',
        f'{{"mode": "val", "iter": {value}, "mIoU": 0.25}}',
    ]
    log = parse_log("\n".join(lines).encode(), "a file", "mine")
    assert log.best == (10, 0.25)
    for kind in ("png", "svg", "pdf"):
        log.save_plot(tmp_path / f"a.{kind}")


@pytest.mark.parametrize("value", ["1e308", "-1e308", "1" + 400 * "0", "NaN", '"a"'])
@pytest.mark.filterwarnings("error")
def test_figures_that_cannot_be_drawn_are_not(value: str, tmp_path: Path) -> None:
    lines = [f'{{"mode": "train", "iter": 1, "loss": {value}}}', f'{{"mode": "val", "iter": 1, "mIoU": {value}}}']
    log = parse_log("\n".join(lines).encode(), "a file", "mine")
    assert log.best is None
    log.save_plot(tmp_path / "a.png")


@pytest.mark.parametrize(
    "name", [r"run$\foo{$x", "$$", "a$b^c$", "\\", "x_{", "run\udcff", "a\nb", "a\x1b[31m", "x" * 400]
)
@pytest.mark.filterwarnings("error")
def test_titles_are_drawn_as_they_are(name: str, tmp_path: Path) -> None:
    log = parse_log(b'{"mode": "train", "iter": 1, "loss": 1.0}\n', "a file", name)
    for kind in ("png", "pdf", "svg"):
        log.save_plot(tmp_path / f"a.{kind}")
    drawn = (tmp_path / "a.svg").read_text(encoding="utf-8")  # each text stands there as a comment, too
    if name.isprintable() and len(name) <= 100:
        assert f"<!-- {name} -->" in drawn


def test_plots_that_cannot_be(mirror: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = read(mirror, body(plain_log()))
    for name in ("plot", "plot.jpg"):
        with pytest.raises(ConfigError, match=r"ends in \.png, \.svg, \.pdf"):
            log.save_plot(tmp_path / name)
    with pytest.raises(OutputError):
        log.save_plot(tmp_path / "absent" / "plot.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[plot\]' in the checkout"):
        log.save_plot(tmp_path / "plot.png")
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


# --- command line ----------------------------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> tuple[str, str]:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert (caught.value.code or 0) == code, err
    return out, err


def test_command(mirror: FaultServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    environment = {**ENVIRONMENT, "seed": 7, "exp_name": "a\x1b[2J"}
    mirror.play(path_of(NAME), whole(body([environment, *plain_log()[1:]])))
    out, err = run(capsys, "log", NAME, "--plot", tmp_path / "plot.png")
    assert out.splitlines() == [
        NAME,
        "  Python: 3.7.7 (default)",
        "  GPU 0,1,2,3: Tesla V100",
        "  PyTorch: 1.5.0",
        "  MMCV: 0.6.0",
        "  MMSegmentation: 0.5.0+b57fb2b",
        "seed                    7",
        "exp_name                a\\x1b[2J",
        "iterations              350",
        f"last loss               {40 / 350}",
        "best mIoU               0.62 at iteration 400",
        "iter  mIoU  mAcc  aAcc",
        *(" 200  0.51  0.56  0.95", " 400  0.62  0.67  0.95"),
    ]
    assert err == ""
    assert (tmp_path / "plot.png").is_file()
    facts = json.loads(run(capsys, "log", NAME, "--json")[0])
    assert facts == training_log(NAME).to_dict()


def test_command_on_a_log_without_validation(mirror: FaultServer, capsys: pytest.CaptureFixture[str]) -> None:
    mirror.play(path_of(NAME), whole(body([ENVIRONMENT])))
    out, _ = run(capsys, "log", NAME)
    assert [line.split() for line in out.splitlines()[-3:]] == [
        ["iterations", "-"],
        ["last", "loss", "-"],
        ["no", "validation"],
    ]


def test_command_that_fails(mirror: FaultServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "log", "demo", code=2)
    run(capsys, "log", NAME, code=3)
    mirror.play(path_of(NAME), whole(body(plain_log())))
    out, err = run(capsys, "log", NAME, "--plot", tmp_path / "plot.bmp", code=2)
    assert out == ""
    assert err.startswith("error: ")


def test_cache_commands(mirror: FaultServer, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read(mirror, body(plain_log()))
    (log,) = [entry for entry in json.loads(run(capsys, "cache", "show", "--json")[0]) if entry["kind"] == "log"]
    assert log["bytes"] == len(body(plain_log()))
    assert Path(log["path"]).name in run(capsys, "cache", "show")[0]
    assert run(capsys, "cache", "clear", Path(log["path"]).name)[0].startswith("removed 1 files")
    assert logs_in(cache) == []
    read(mirror, body(plain_log()))
    assert run(capsys, "cache", "clear", "--all")[0].startswith("removed 1 files")
    assert logs_in(cache) == []


def test_a_folder_without_a_log(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"No such file[\s\S]*metrics\.jsonl[\s\S]*finetune` made"):
        training_log(f"local-dir:{tmp_path}")
    with pytest.raises(ConfigError, match="null"):
        training_log("local-dir:a\0b")
