"""The command line: data on stdout, errors in four parts on stderr, the right exit code, no traceback."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import click
import pytest
from click.shell_completion import BashComplete
from PIL import Image

import hrnet_zoo
from hrnet_zoo.cli import GROUPS, cli, main, output
from tests.cli.conftest import Run
from tests.support.http_server import FaultServer

NAME = "fcn_hr18s_cityscapes_40k"


def test_version_and_help(run: Run) -> None:
    assert run("--version") == f"hrnet-zoo, version {hrnet_zoo.__version__}\n"
    text = run("--help")
    with pytest.raises(SystemExit):  # click 8.2 took help that nobody asked for from stdout and 0 to stderr and 2
        main([])
    assert "".join(run.capsys.readouterr()) == text
    titles = [line for line in text.splitlines() if line.endswith(":")]
    assert titles == [*(f"{title}:" for title in GROUPS), "Options:"]
    assert [command.name for command in GROUPS["First steps"]] == ["demo", "list", "predict", "finetune", "doctor"]
    for command in itertools.chain(*GROUPS.values()):
        assert text.count(f"\n  {command.name} ") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX terminals")
@pytest.mark.parametrize("columns", [80, 120])
def test_on_a_terminal(columns: int) -> None:
    """Tables are aligned and fit, facts are wrapped, and only titles have a color, which NO_COLOR takes away."""
    lines = on_a_terminal(columns, "list")
    assert lines[0].startswith("\x1b[1m")
    assert lines[0].endswith("\x1b[0m")
    table = [lines[0][4:-4], *lines[1:]]
    assert max(map(len, table)) <= 80
    assert {len(line) for line in table} == {len(table[0])}
    assert on_a_terminal(columns, "list", NO_COLOR="1") == table
    wrapped = [line for line in on_a_terminal(columns, "info", "demo") if "://" not in line and "sha256" not in line]
    assert max(map(len, wrapped)) <= columns
    classes = hrnet_zoo.model_info("demo").classes
    assert f"classes {', '.join(classes)} " in " ".join(" ".join(wrapped).split())
    assert any(line.startswith(" " * 24) for line in wrapped)
    error, step = on_a_terminal(columns, "info", "hrnet_w48")
    assert error.startswith("\x1b[31m\x1b[1merror:\x1b[0m the model 'hrnet_w48': no published")
    assert step.startswith("  \x1b[1mnext:\x1b[0m `hrnet-zoo list` and")


def on_a_terminal(columns: int, *arguments: str, **environment: str) -> list[str]:
    """Return the lines that a command shows on a terminal."""
    terminal, side = os.openpty()
    command = [sys.executable, "-m", "hrnet_zoo", *arguments]
    settings = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    with subprocess.Popen(  # noqa: S603
        command, stdout=side, stderr=side, env={**settings, "COLUMNS": str(columns), **environment}
    ):
        os.close(side)
        shown = b""
        with suppress(OSError):  # Linux's end of a terminal that nobody writes to any more
            while chunk := os.read(terminal, 1 << 16):
                shown += chunk
        os.close(terminal)
    return shown.decode().splitlines()


def test_long_names_in_tables(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that is too narrow cuts them; a file has all."""
    rows = [("a" * 90, "1"), ("b", "23")]
    output.say_table(("class", "pixels"), rows)
    assert run.capsys.readouterr().out.splitlines()[1] == f"{'a' * 90}       1"
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    output.say_table(("class", "pixels"), rows)
    assert click.unstyle(run.capsys.readouterr().out).splitlines() == [
        "class         pixels",
        "aaaaaaaaa...       1",
        "b                 23",
    ]


def test_completion() -> None:
    """Of commands, options and models' names, by the scripts that click makes for bash, zsh and fish."""
    complete = BashComplete(cli, {}, "hrnet-zoo", "_HRNET_ZOO_COMPLETE")
    assert "_HRNET_ZOO_COMPLETE=bash_complete" in complete.source_vars()["complete_var"] + "=bash_complete"

    def found(*words: str) -> list[str]:
        return [item.value for item in complete.get_completions(list(words[:-1]), words[-1])]

    assert found("fine") == ["finetune"]
    assert found("predict", "demo", "--geo") == ["--geojson"]
    assert found("predict", "fcn_hr48_pascal_context_") == hrnet_zoo.list_models("fcn_hr48_pascal_context_*")
    assert [item.type for item in complete.get_completions(["evaluate"], "runs/")] == ["dir"]


def test_runs_as_a_module() -> None:
    module = subprocess.run([sys.executable, "-m", "hrnet_zoo", "list"], capture_output=True, text=True, check=True)
    assert len(module.stdout.splitlines()) == 1 + 62
    assert module.stderr == ""


def test_tables_and_help_fit_into_80_columns(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for arguments in (("list",), ("--help",), ("cache", "--help")):
        text = run(*arguments)
        assert max(map(len, text.splitlines())) <= 80, arguments
        assert "..." not in text.replace("[ARGS]...", ""), arguments


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train",), "next: hrnet-zoo finetune NAME"),
        (("serve",), "examples/serve.py"),
        (("evalute",), "next: hrnet-zoo evaluate"),
        (("x" * 30,), "next: hrnet-zoo --help"),
        (("predict", "street.jpg"), "hrnet-zoo predict demo street.jpg"),
        (("predict", "demo"), "hrnet-zoo predict demo photo.jpg"),
        (("predict", "street.jpg", "other.jpg"), "hrnet-zoo predict demo street.jpg"),
        (("predict", "demo", "https://example.org/street.jpg"), "fetch the address first"),
        (("predict", "https://example.org/street.jpg"), "fetch the address first"),
        (("predict", "demo", "street.jpg", "--out", "labeled.png"), "--out labeled"),
        (("predict", "model.pth", "street.jpg"), "--checkpoint"),
        (("info", "hrnet_w48"), "fcn_hr48_cityscapes_160k, fcn_hr48_ade20k_160k"),
        (("info", "hr18s"), "fcn_hr18s_cityscapes_160k"),
        (("info",), "error: Missing argument 'NAME'.\n  next: hrnet-zoo info --help"),
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
