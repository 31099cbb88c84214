"""Errors: four parts, facts, exit codes, and a safe journey between processes."""

import logging
import pickle
import re
from pathlib import Path

import pytest

from hrnet_zoo import errors
from hrnet_zoo.errors import CacheSpaceError, HashMismatchError, HRNetZooError, UnknownModelError, printable, redact

EVERY = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, HRNetZooError)]


def test_message_has_four_parts() -> None:
    error = HRNetZooError(asked="a model", found="none", done="nothing", advice="look elsewhere")
    assert str(error) == "a model\n  found: none\n  done:  nothing\n  next:  look elsewhere"


def test_what_controls_a_terminal_is_quoted() -> None:
    """Control characters, bidi and zero-width ones, line separators, lone surrogates; nothing else, and only once."""
    shown = printable("a\x1b]52;c;eA\x07\r\nb\x9b\u202e\u200b\u2028\udce4\ufeff")
    assert shown == r"a\x1b]52;c;eA\x07\r\nb\x9b\u202e\u200b\u2028\udce4\ufeff"
    assert printable(shown) == shown
    plain = "C:\\Straße 水\u3000\u202f👍.png"
    assert printable(plain) == plain
    assert printable(Path("a\n")) == r"a\n"


def test_all_four_parts_are_quoted_and_attributes_are_exact() -> None:
    error = HRNetZooError(asked="a\nb", found="\x1b[2J", done="\r", advice="\u202e")
    assert str(error) == "a\\nb\n  found: \\x1b[2J\n  done:  \\r\n  next:  \\u202e"
    assert error.asked == "a\nb"


def test_log_lines_are_quoted(caplog: pytest.LogCaptureFixture) -> None:
    error = HRNetZooError(asked="a", found="\x1b", done="c", advice="d")
    log = logging.getLogger("hrnet_zoo")
    log.warning("%d files, %s: %s; %s; %s", 3, "x\x1b\ny", Path("p\r"), OSError("q\x07"), error)
    log.warning("no values")
    assert caplog.messages == [rf"3 files, x\x1b\ny: p\r; q\x07; {error}", "no values"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("(at https://me:pa@ss@a.example/b@c.pth?token=x)", "(at https://***@a.example/b@c.pth?***)"),
        ("https://me:pa/ss@a.example/x", "https://***@a.example/x"),
        ("https://me:pa#ss@a.example/x", "https://***@a.example/x"),
        ("https://me:pa?ss@a.example/x", "https://***@a.example/x"),
        ("'https://me:pa'", "'https://***'"),  # cut in two at a comma
        ("https://me@a.example: it", "https://***@a.example: it"),
        ("ftp://me:pass@a.example/x", "ftp://***@a.example/x"),
        ("//me:pass@a.example/x", "//***@a.example/x"),
        ("https:/me:pass@a.example/x.png?sig=a", "https:/***@a.example/x.png?***"),  # as pathlib has it
        ("https://a.example/x.pth?a=b'c)d", "https://a.example/x.pth?***"),
        ("https://a.example/x.pth#token=a", "https://a.example/x.pth#***"),
        ("https://a.example/x;sig=a/x.pth;b", "https://a.example/x;***/x.pth;***"),
        ("https://a.example,https://me:pass@b.example", "https://a.example,https://***@b.example"),
        ("https://a.example/https://me:pass@b.example", "https://a.example/https://***@b.example"),
        ("Bearer abcdefghijklmnop.q hf_abcdefghijklmnopqrst", "Bearer *** hf_***"),
        *(
            (text, text)
            for text in (
                "https://a.example:8080/b@c.pth: HTTP status 404; http://[::1]:80/x, https://a.example: it",
                "what?.jpg a#b.png local-dir:/a@b/c;d?e org/name@main file:///srv/x?y C:\\a@b hf_hub_download",
                "https://HOST[/PATH], http://HOST[/PATH] or file:///FOLDER",
            )
        ),
    ],
)
def test_secrets_are_blanked(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact(shown) == shown


def test_no_part_of_an_error_keeps_a_secret() -> None:
    secret = "https://me:secret@a.example/x?secret"  # noqa: S105 - of nobody
    error = UnknownModelError(asked=secret, found=secret, done=secret, advice=secret, name=secret, nearest=(secret,))
    error.found += f"; {secret}"
    assert "secret" not in f"{error}{vars(error)}{error!r}"
    assert error.name == "https://***@a.example/x?***"


def test_log_lines_are_redacted(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("hrnet_zoo").warning("%s: %s", "https://a/?secret", OSError("//me:secret@a"))
    assert caplog.messages == ["https://a/?***: //***@a"]


def test_all_log_lines_pass_the_filter() -> None:
    """A filter sees the records of its own logger, not of loggers below it."""
    names = [
        found
        for path in Path(errors.__file__).parent.rglob("*.py")
        for found in re.findall(r"getLogger\(([^)]*)\)", path.read_text(encoding="utf-8"))
    ]
    assert {*names} == {'"hrnet_zoo"'}


def test_facts_and_pickling() -> None:
    error = HashMismatchError(
        asked="a", found="b", done="c", advice="d", source="x.pth", expected="00", actual="11", size=3
    )
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - made on the line above
    assert isinstance(copy, HashMismatchError)
    assert str(copy) == str(error)
    assert (copy.expected, copy.actual, copy.size, copy.source) == ("00", "11", 3, "x.pth")


EXIT_CODES = {
    1: "HRNetZooError ProcessError TrainingError LogitsError",
    2: "ConfigError UnknownModelError",
    3: "DownloadError OfflineError HTTPStatusError TransferError UnexpectedContentError HubError HubRefusedError",
    4: "CheckpointError HashMismatchError UnsafeCheckpointError CheckpointFormatError StateDictMismatchError "
    "ModelConfigError ResumeError",
    5: "CheckpointNotFoundError ImageError ImageTooLargeError DatasetError OutputError",
    6: "CacheError CacheSpaceError OutputSpaceError",
}


def test_exit_codes() -> None:
    stated = {name: code for code, names in EXIT_CODES.items() for name in names.split()}
    assert {kind.__name__: kind.exit_code for kind in EVERY} == stated


def test_a_cache_error_is_told_apart() -> None:
    error = CacheSpaceError(asked="a", found="b", done="c", advice="d", path=Path("x"))
    assert error.exit_code == 6
    assert error.path == Path("x")


def test_former_names_work_for_one_more_version() -> None:
    with pytest.warns(DeprecationWarning, match="UnreadableImageError is ImageError now") as caught:
        assert errors.UnreadableImageError is errors.ImageError
    assert caught[0].filename == __file__
    with pytest.raises(AttributeError, match="no attribute 'NeverThere'"):
        _ = errors.NeverThere
