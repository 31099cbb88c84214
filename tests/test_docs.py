"""The documents are true: tables are fresh, code runs, commands parse, links lead somewhere."""

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml  # type: ignore[import-untyped]

import hrnet_zoo
from hrnet_zoo.cli import cli
from tests.support.tables import ROOT, TABLES, with_tables

GUIDES = sorted((ROOT / "examples").glob("guide_*.md"))
DOCUMENTS = ("README.md", "MODEL_CARD.md", "CONTRIBUTING.md", *(f"examples/{path.name}" for path in GUIDES))


def blocks(document: str, languages: str) -> list[str]:
    return re.findall(rf"```(?:{languages})\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("document", TABLES)
def test_tables_are_fresh(document: str) -> None:
    assert with_tables(document) == (ROOT / document).read_text(encoding="utf-8"), "run: python -m tests.support.tables"


def test_readme_is_short_and_begins_with_its_two_commands() -> None:
    """`.ci/run` runs both; tests/slow/test_newcomer.py runs all other blocks."""
    assert blocks("README.md", "sh")[:2] == ["pip install . && hrnet-zoo demo\n", "pip install '.[test]' && pytest\n"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 220
    first_screen = text[: text.index("## ")]
    assert [len(block.replace("\n\n", "\n").splitlines()) for block in blocks("README.md", "python")[:1]] == [4]
    assert first_screen.count("```") == 4
    assert "](examples/demo.jpg)" in first_screen
    assert len(re.findall(r"^- \*\*", first_screen, flags=re.MULTILINE)) == 3  # reasons


def test_badges_are_true() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    badges = re.findall(r"img\.shields\.io/badge/(\w+)-(.+?)-blue", (ROOT / "README.md").read_text(encoding="utf-8"))
    facts = {
        key: re.findall(rf'^{key} = "(?:>=)?(.+)"$', project, flags=re.MULTILINE)[0]
        for key in ("license", "requires-python")
    }
    assert dict(badges) == {
        "license": facts["license"].replace("-", "--"),
        "python": f"{facts['requires-python']}_or_newer",
    }


def test_the_citation_is_of_this_version() -> None:
    facts = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert facts["version"] == hrnet_zoo.__version__
    assert facts["license"] in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert {"cff-version", "message", "title", "authors"} <= set(facts)


def test_issue_templates_ask_for_the_doctor_s_report() -> None:
    templates = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").iterdir())
    assert [path.name for path in templates] == ["bug.yml", "wish.yml"]
    for path in templates:
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= set(form)
        fields = {field["id"]: field for field in form["body"]}
        assert "`hrnet-zoo doctor --json`" in fields["doctor"]["attributes"]["label"]


@pytest.mark.parametrize("document", ["README.md", *(f"examples/{path.name}" for path in GUIDES)])
def test_commands_parse(document: str) -> None:
    """Parse all commands, without running them: also those that need a connection or the user's files."""
    lines = [line for block in blocks(document, "sh|console|text|bash") for line in block.splitlines()]
    commands = [re.sub(r".*-m hrnet_zoo ", "hrnet-zoo ", line).removeprefix("$ ") for line in lines]
    commands = [command for command in commands if command.startswith("hrnet-zoo ")]
    assert commands
    for text in commands:
        _, *words = shlex.split(text, comments=True)
        context, command = click.Context(cli), cli
        while isinstance(command, click.Group):
            name, found, words = command.resolve_command(context, words)
            assert name
            assert found
            context, command = click.Context(found, info_name=name, parent=context), found  # type: ignore[assignment]
        command.parse_args(context, words)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_python_blocks_compile(document: str) -> None:
    for block in blocks(document, "python"):
        compile(block, document, "exec")


def test_every_command_and_option_says_what_it_is() -> None:
    def look(command: click.Command, name: str) -> None:
        assert command.help, name
        for option in command.get_params(click.Context(command)):
            if isinstance(option, click.Option):
                assert option.help or option.name == "out", f"{name} {option.name}"
        for inner, each in getattr(command, "commands", {}).items():
            look(each, f"{name} {inner}")

    look(cli, "hrnet-zoo")


def test_local_links_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#\s]+)\)", (ROOT / document).read_text(encoding="utf-8")):
            assert "://" in target or ((ROOT / document).parent / target).is_file(), target


def test_what_is_said_of_digests_is_true() -> None:
    """Whoever states whole digests in the catalog corrects both documents."""
    known = any(hrnet_zoo.model_info(name).sha256 for name in hrnet_zoo.list_models())
    card = " ".join((ROOT / "MODEL_CARD.md").read_text(encoding="utf-8").split())
    guide = (ROOT / "examples/guide_offline.md").read_text(encoding="utf-8")
    assert ("No row has one yet" in guide) is not known
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
