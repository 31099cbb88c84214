"""The documents are true: tables are fresh, code runs, commands parse, links lead somewhere."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from PIL import Image

import hrnet_zoo
from hrnet_zoo.cli import cli
from hrnet_zoo.demo.dataset import write_dataset
from hrnet_zoo.demo.scenes import scene
from tests.tables import ROOT, TABLES, with_tables
from tests.training_data import write_own_folder

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("document", TABLES)
def test_tables_are_fresh(document: str) -> None:
    assert with_tables(document) == (ROOT / document).read_text(encoding="utf-8"), "run: python -m tests.tables"


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them, in order, as one session."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(scene(0).image).save("street.jpg")
    write_dataset(Path("scenes"), seeds=[0], progress=False)
    write_own_folder(Path("my_data"), 4)
    session: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), session)  # noqa: S102 - our own document
    assert sorted(path.name for path in tmp_path.glob("*.*")) == [
        *("labels.png", "overlay.png", "scores.json", "street.jpg"),
    ]
    assert tuple(session["scores"].shape) == (1, 3, 64, 96)  # type: ignore[attr-defined]


def test_shell_blocks_run(tmp_path: Path) -> None:
    """Run what needs no connection; `.ci/run` runs the two that install."""
    install, *others = blocks("sh")
    assert install == "pip install . && hrnet-zoo demo\n"
    assert others.pop(0) == "pip install '.[test]' && pytest\n"
    Image.fromarray(scene(0, 96, 192).image).save(tmp_path / "street.jpg")
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "hrnet-zoo"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hrnet_zoo "$@"\n')
    command.chmod(0o755)
    environment = dict(os.environ, PYTHONPATH=str(ROOT), HRNET_ZOO_OFFLINE="1")
    environment["PATH"] = f"{command.parent}:{environment['PATH']}"
    for block in others:
        shell = ["/bin/sh", "-ec", block]
        subprocess.run(shell, check=True, cwd=tmp_path, env=environment, capture_output=True)  # noqa: S603
    assert (tmp_path / "segmented" / "street_overlay.png").is_file()


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
