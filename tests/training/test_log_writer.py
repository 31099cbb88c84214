"""What a training tells of itself."""

import json
from pathlib import Path

import pytest

from hrnet_zoo.errors import ConfigError, OutputError, OutputSpaceError
from hrnet_zoo.training.log_writer import LogWriter
from hrnet_zoo.zoo.training_log import OWN_LOG, parse_log, training_log

LINES = [
    {"env_info": "hrnet-zoo: 0", "seed": 0},
    {"mode": "train", "iter": 1, "lr": 0.01, "loss": 2.0},
    {"mode": "train", "iter": 2, "lr": 0.005, "loss": 1.5},
    {"mode": "val", "iter": 2, "mIoU": 50.0},
    {"mode": "train", "iter": 3, "lr": 0.001, "loss": 1.25},
]


def write(folder: Path) -> None:
    log = LogWriter(folder, 0, 0)
    for line in LINES:
        log.add(line)


def read(folder: Path) -> list[object]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_bytes().splitlines()]


def test_lines_are_those_of_a_published_log(tmp_path: Path) -> None:
    write(tmp_path)
    assert read(tmp_path) == LINES
    log = parse_log((tmp_path / "metrics.jsonl").read_bytes(), "a file", "a")
    assert log.train["loss"] == [2.0, 1.5, 1.25]
    assert log.best == (2, 50.0)


def test_the_log_is_found_by_its_folder(tmp_path: Path) -> None:
    write(tmp_path)
    assert training_log(f"local-dir:{tmp_path}").best == (2, 50.0)
    with pytest.raises(ConfigError, match="cannot be read"):
        training_log(f"local-dir:{tmp_path / 'absent'}")


def test_what_a_stop_has_undone_is_removed(tmp_path: Path) -> None:
    write(tmp_path)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"mode": "train", "iter": 4, "lo')  # killed in the middle of a line
    log = LogWriter(tmp_path, 2, 2)
    log.add({"mode": "train", "iter": 3, "loss": 9.0})
    assert read(tmp_path) == [*LINES[:4], {"mode": "train", "iter": 3, "loss": 9.0}]


@pytest.mark.parametrize("value", ["1e999", "NaN", '"a"', "[]", "1e308"])
def test_a_line_that_states_no_update_is_removed(value: str, tmp_path: Path) -> None:
    write(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(f'{{"mode": "train", "iter": {value}}}\n')
    LogWriter(tmp_path, 3, 2)
    assert read(tmp_path) == LINES


def test_a_validation_that_will_be_made_up_for_is_removed(tmp_path: Path) -> None:
    """Killed between its line and the saving of the state."""
    write(tmp_path)
    LogWriter(tmp_path, 2, 0)
    assert read(tmp_path) == LINES[:3]


def test_curves_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write(tmp_path)
    log = LogWriter(tmp_path, 3, 2)
    log.draw_curves()
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_there_is_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    log = LogWriter(tmp_path, 0, 0)
    log.add(LINES[1])
    log.draw_curves()
    assert "no curves are drawn" in caplog.text
    assert not (tmp_path / "curves.png").exists()


def test_a_folder_that_is_none_is_our_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"metrics\.jsonl[\s\S]*no file was made"):
        LogWriter(tmp_path / "absent", 0, 0)


def test_a_log_that_cannot_be_read_or_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one" / OWN_LOG).mkdir(parents=True)
    with pytest.raises(OutputError, match=r"Is a directory[\s\S]*the training was stopped"):
        LogWriter(tmp_path / "one", 3, 0)

    log = LogWriter(tmp_path, 0, 0)
    monkeypatch.setattr(log, "path", Path("/dev/full"))
    with pytest.raises(OutputSpaceError, match=r"No space left on device[\s\S]*the training was stopped"):
        log.add({"mode": "train"})
