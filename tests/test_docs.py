"""The documents are true: tables are fresh, code runs, commands parse, links lead somewhere."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

import hrnet_zoo
from hrnet_zoo.cli import cli
from tests.support.tables import ROOT, TABLES, with_tables

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("document", TABLES)
def test_tables_are_fresh(document: str) -> None:
    assert with_tables(document) == (ROOT / document).read_text(encoding="utf-8"), "run: python -m tests.support.tables"


NEWCOMER = """
import json, subprocess, sys
session = {}
for kind, text in json.load(sys.stdin):
    if kind == "python":
        exec(compile(text, "README.md", "exec"), session)
    else:
        subprocess.run(["/bin/sh", "-ec", text], check=True)
assert tuple(session["scores"].shape) == (1, 3, 64, 96)
"""
OFFLINE = ("cache show", "verify --all", "lock")  # of the console blocks; the others need a host or somebody's files


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX shell")
def test_blocks_run_as_a_newcomer_runs_them(tmp_path: Path) -> None:
    """In order, in an empty folder, with the installed package: shell blocks, and Python blocks as one session."""
    steps = re.findall(r"```(sh|python|console)\n(.*?)```", README, flags=re.DOTALL)
    assert steps[:2] == [("sh", "pip install . && hrnet-zoo demo\n"), ("sh", "pip install '.[test]' && pytest\n")]
    steps[:2] = [("sh", "hrnet-zoo demo --scenes 2\n")]  # `.ci/run` runs both
    for number, (kind, text) in enumerate(steps):
        if kind == "console":
            commands = [line.removeprefix("$ ") for line in text.splitlines()]
            here = [each for each in commands if each.startswith(tuple(f"hrnet-zoo {name}" for name in OFFLINE))]
            steps[number] = ("sh", "\n".join(here))
    scripts, folder = tmp_path / "bin", tmp_path / "empty"
    scripts.mkdir()
    folder.mkdir()
    installed = shutil.which("hrnet-zoo", path=Path(sys.executable).parent)
    command = scripts / "hrnet-zoo"
    command.write_text(f'#!/bin/sh\nexec "{installed or sys.executable}" {"" if installed else "-m hrnet_zoo"} "$@"\n')
    command.chmod(0o755)
    environment = dict(os.environ, HRNET_ZOO_OFFLINE="1", PATH=f"{scripts}:{os.environ['PATH']}")
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-W", "error", "-c", NEWCOMER],
        input=json.dumps(steps),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    made = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    assert {"overlay.png", "labels.png", "scores.json", "SHA256SUMS", "demo-out/street.jpg"} <= made
    assert {f"segmented{name}/street_overlay.png" for name in ("", "-fast", "-own")} <= made
    assert {"runs/a/model.safetensors", "runs/b/metrics.jsonl", "my_model/README.md"} <= made


def test_console_blocks_parse() -> None:
    """Parse the commands that need a connection or the user's files, without running them."""
    lines = [line for block in blocks("console") for line in block.splitlines()]
    assert lines
    for line in lines:
        prompt, program, *words = shlex.split(line, comments=True)
        assert (prompt, program) == ("$", "hrnet-zoo")
        context, command = click.Context(cli), cli
        while isinstance(command, click.Group):
            name, found, words = command.resolve_command(context, words)
            assert name
            assert found
            context, command = click.Context(found, info_name=name, parent=context), found  # type: ignore[assignment]
        command.parse_args(context, words)


def test_every_command_and_option_says_what_it_is() -> None:
    def look(command: click.Command, name: str) -> None:
        assert command.help, name
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.help or option.name == "out", f"{name} {option.name}"
        for inner, each in getattr(command, "commands", {}).items():
            look(each, f"{name} {inner}")

    look(cli, "hrnet-zoo")


def test_local_links_lead_somewhere() -> None:
    for document in ("README.md", "MODEL_CARD.md"):
        for target in re.findall(r"\]\(([^)#\s]+)\)", (ROOT / document).read_text(encoding="utf-8")):
            assert "://" in target or (ROOT / target).is_file(), target


def test_what_is_said_of_digests_is_true() -> None:
    """Whoever states whole digests in the catalog corrects both documents."""
    known = any(hrnet_zoo.model_info(name).sha256 for name in hrnet_zoo.list_models())
    card = " ".join((ROOT / "MODEL_CARD.md").read_text(encoding="utf-8").split())
    assert ("No row has it yet" in README) is not known
    assert ("Whole digests are not known yet (`sha256` is None in every published row)" in card) is not known


def test_nothing_recommends_unsafe_loading() -> None:
    forbidden = "weights_only=" + "False"
    package = Path(hrnet_zoo.__file__).parent
    for path in [
        *ROOT.glob("*.*"),
        *package.rglob("*.py"),
        *(ROOT / "examples").glob("*"),
        *(ROOT / "tests").glob("*"),
    ]:
        if path.is_file():
            assert forbidden.encode() not in path.read_bytes(), path
