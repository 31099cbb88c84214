"""The command `push`: model folder -> repository on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

import click

from hrnet_zoo.cli import options
from hrnet_zoo.cli.output import say, say_json


@click.command()
@click.argument("what", nargs=-1, required=True, metavar="DIR ORG/NAME | ORG [NAMES]...")
@click.option("--published", is_flag=True, help="Mirror all published checkpoints, or NAMES, as ORG/NAME.")
@click.option("--public", is_flag=True, help="Make new repositories public; default: private.")
@click.option("--revision", help="Branch to commit to; default: main.")
@options.as_json
def push(what: tuple[str, ...], published: bool, public: bool, revision: str | None, as_json: bool) -> None:
    """Share a model folder on the Hugging Face Hub.

    hrnet-zoo push DIR ORG/NAME shares what save_pretrained or finetune wrote to DIR. hrnet-zoo push --published ORG
    mirrors the published checkpoints in your organization. Log in with HF_TOKEN or `hf auth login`.
    """
    if published and revision:
        raise click.UsageError("--revision cannot be combined with --published")
    if not published and len(what) != 2:
        raise click.UsageError("give a folder and a repository: hrnet-zoo push DIR ORG/NAME")
    from hrnet_zoo.zoo import push as publishing

    if published:
        commits = publishing.push_published(what[0], what[1:], public=public)
    else:
        commits = iter([publishing.push(Path(what[0]), what[1], public=public, revision=revision)])
    for commit in commits:
        if as_json:
            say_json(commit.to_dict())
        else:
            say(commit.name, f"  {commit.url}")
