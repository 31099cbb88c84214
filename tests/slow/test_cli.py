"""Every command that computes, in a process that turns warnings into errors."""

import subprocess
import sys
from pathlib import Path

COMPUTING = """
import sys
from hrnet_zoo.cli import main
out = sys.argv[1]
for command in (
    f"demo --scenes 1 --device cpu --out {out}/demo",
    f"demo --scenes 2 --as-dataset --out {out}/scenes",
    f"predict demo {out}/demo --device cpu --out {out}/labeled --json",
    f"predict demo {out}/demo --device cpu --out {out}/labeled --force --no-overlay",
    f"check-data {out}/scenes --dataset cityscapes",
    f"evaluate demo {out}/scenes --limit 1 --device cpu --save {out}/scores.json --workers 1",
    f"info demo", "list", "cache show", "cache clear --all",
    f"log demo", f"log local-dir:{out}", f"predict demo {out}/absent.png",
):
    try:
        main(command.split())
    except SystemExit as end:
        print(end.code, command.split()[0], file=sys.stderr)
"""


def test_with_warnings_as_errors(tmp_path: Path) -> None:
    """Every command that needs no connection, `python -W error`, its stderr no terminal: no warning, no bar."""
    command = [sys.executable, "-W", "error", "-c", COMPUTING, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)  # noqa: S603
    told = [words[0] for line in done.stderr.splitlines() if len(words := line.split()) == 2 and words[0].isdigit()]
    assert told == ["0"] * 10 + ["2", "2", "5"], done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    assert "\r" not in done.stderr
