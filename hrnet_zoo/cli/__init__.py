"""The command line: one subcommand per verb, and no logic of its own.

Data goes to stdout, progress and errors to stderr. Everything heavy is imported by the command that needs it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from hrnet_zoo import __version__
from hrnet_zoo.cli import data, evaluating, files, finetuning, health, labelling, listing, logs, sharing
from hrnet_zoo.errors import HRNetZooError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="hrnet-zoo")
def cli() -> None:
    """Pretrained HRNet for semantic segmentation: a name becomes a network, a photo a labelled picture."""


for command in (
    *(listing.list_, listing.info, logs.log),
    *(files.download, files.import_, files.cache, files.verify),
    *(labelling.predict, labelling.demo, evaluating.evaluate),
    data.check_data,
    finetuning.finetune,
    sharing.push,
    *(health.benchmark, health.doctor),
):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with the code of what happened (`hrnet_zoo.errors` lists them)."""
    try:
        code = cli.main(args=arguments, prog_name="hrnet-zoo", standalone_mode=False)
        sys.stdout.flush()
    except HRNetZooError as error:
        click.echo(f"error: {error}", err=True)
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        code = INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has left; nothing more can reach it, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)
