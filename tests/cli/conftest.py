"""The fixture `run`: commands in this process."""

from pathlib import Path

import pytest

from hrnet_zoo.cli import main


class Run:
    """Runs commands in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.err = ""

    def __call__(self, *arguments: str | Path, code: int = 0) -> str:
        """Run one, expect its exit code, keep what it said in `err`, and return what it printed."""
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        out, self.err = self.capsys.readouterr()
        assert (caught.value.code or 0) == code, self.err
        assert "Traceback" not in self.err
        return out


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], quick_demo: None) -> Run:
    return Run(capsys)
