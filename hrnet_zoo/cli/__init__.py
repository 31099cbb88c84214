"""Command-line arguments -> calls of the library: data on stdout, progress and errors on stderr.

Each command imports slow modules only when it runs.
"""

from __future__ import annotations

import difflib
import io
import itertools
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn, TextIO

import click

from hrnet_zoo import __version__
from hrnet_zoo.cli import (
    app,
    benchmark,
    cache,
    catalog,
    check_data,
    compare,
    doctor,
    evaluate,
    export,
    finetune,
    predict,
    prepare,
    push,
    recommend,
)
from hrnet_zoo.cli.output import colors, error_lines, two_lines
from hrnet_zoo.errors import ConfigError, HRNetZooError

INTERRUPTED, TERMINATED = 130, 143  # 128 + SIGINT and SIGTERM, as in shells
UNWRITTEN = 1  # stdout is closed or full

_INSTEAD = {  # commands of other tools
    **dict.fromkeys(("train", "fit", "fine-tune"), "hrnet-zoo finetune NAME --data DATA --out OUT"),
    **dict.fromkeys(("val", "validate", "test", "eval", "score"), "hrnet-zoo evaluate NAME DATA"),
    **dict.fromkeys(("segment", "infer", "inference", "label", "run"), "hrnet-zoo predict NAME IMAGES"),
    **dict.fromkeys(("models", "ls", "search"), "hrnet-zoo list"),
    **dict.fromkeys(("pull", "fetch", "get"), "hrnet-zoo download NAME"),
    **dict.fromkeys(("upload", "share"), "hrnet-zoo push DIR ORG/NAME"),
    **dict.fromkeys(("check", "validate-data"), "hrnet-zoo check-data FOLDER"),
    **dict.fromkeys(("convert", "convert-data"), "hrnet-zoo prepare DATASET SRC DST"),
    "serve": "hrnet-zoo export NAME --to model.onnx --with-runner, and examples/serve.py",
    "version": "hrnet-zoo --version",
}


GROUPS: dict[str, tuple[click.Command, ...]] = {  # in the order of the help
    "First steps": (predict.demo, catalog.list_, predict.predict, finetune.finetune, doctor.doctor),
    "Labels and data": (app.app, compare.compare, check_data.check_data, prepare.prepare, evaluate.evaluate),
    "Models": (recommend.recommend, catalog.info, catalog.log, benchmark.benchmark, export.export, push.push),
    "Files": (cache.download, cache.import_, cache.cache, cache.verify),
}


class _Commands(click.Group):
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            near = difflib.get_close_matches(args[0], self.commands, n=1)
            hint = _INSTEAD.get(args[0]) or "".join(f"hrnet-zoo {name}" for name in near) or "hrnet-zoo --help"
            raise ConfigError(
                asked=f"hrnet-zoo {args[0]}",
                found="there is no such command",
                done="",
                advice=hint,
            ) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands before the options."""
        self.format_commands(ctx, formatter)
        click.Command.format_options(self, ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by group, in columns that are the same for all."""
        width = max(map(len, self.commands))
        for title, commands in GROUPS.items():
            with formatter.section(click.style(title, bold=True)):
                room = formatter.width - formatter.current_indent - width - 2
                formatter.write_dl([(str(each.name).ljust(width), each.get_short_help_str(room)) for each in commands])


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="hrnet-zoo COMMAND --help explains a command.",
)
@click.version_option(__version__, prog_name="hrnet-zoo")
def cli() -> None:
    """Pretrained HRNet for semantic segmentation: a name becomes a network, a photo a labeled image."""


for command in itertools.chain(*GROUPS.values()):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit (`hrnet_zoo.errors` lists the exit codes)."""
    _prepare_streams()
    with _sigterm_as_exit():
        code = _run(arguments)
        try:
            sys.stdout.flush()
        except OSError as error:
            code = _unwritten(error)
    sys.exit(code)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        return cli.main(args=arguments, prog_name="hrnet-zoo", standalone_mode=False, color=colors()) or 0
    except HRNetZooError as error:
        _tell(error_lines(error))
        return error.exit_code
    except click.ClickException as error:
        if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
            _tell(error.message)  # the help
            return error.exit_code
        context = error.ctx if isinstance(error, click.UsageError) else None
        command = context.command_path if context else "hrnet-zoo"
        _tell(two_lines(error.format_message(), f"{command} --help"))
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        _tell("interrupted")
        return INTERRUPTED
    except OSError as error:
        # Failing files raise errors of ours; click writes to stdout alone.
        if Path(traceback.extract_tb(error.__traceback__)[-1].filename).parent.name != "click":
            raise
        return _unwritten(error)


def _unwritten(error: OSError) -> int:
    """Report that stdout is full; say nothing if its reader (`| head`) has left."""
    if not isinstance(error, BrokenPipeError):
        _tell(f"error: the output could not be written: {error.strerror or error}")
    _discard(sys.stdout)
    return UNWRITTEN


def _tell(text: str) -> None:
    """Print text on stderr, unless that is closed or full."""
    try:
        click.echo(text, err=True, color=colors())
    except OSError:
        _discard(sys.stderr)


def _discard(stream: TextIO) -> None:
    """Redirect a stream to the null device, so that not even the flush at exit fails."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _prepare_streams() -> None:
    """Escape characters that a stream cannot encode; open a closed stream on the null device."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8", closefd=False))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """Let SIGTERM unwind the stack as Ctrl-C does, so that no half-written file remains."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(TERMINATED)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
