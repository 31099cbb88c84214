"""Tables whose runs are killed, and resumed."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from hrnet_zoo.demo.scenes import scene

IMAGES = 12


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_killed_twice_and_resumed_it_is_the_table_of_one_run(suffix: str, tmp_path: Path) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    folder, table, whole = tmp_path / "in", tmp_path / f"a{suffix}", tmp_path / f"whole{suffix}"
    folder.mkdir()
    for index in range(IMAGES):
        Image.fromarray(scene(index, 64, 128).image).save(folder / f"{index:02}.png")
    command = [sys.executable, "-m", "hrnet_zoo", "predict", "demo", str(folder), "--no-labels", "--no-overlay"]
    command += ["--device", "cpu", "--out", str(tmp_path / "out"), "--resume", "--table"]
    subprocess.run([*command, whole], check=True, capture_output=True)  # noqa: S603
    rows = table.with_name(f"{table.name}.jsonl") if suffix == ".parquet" else table
    for least in (IMAGES // 4, IMAGES // 2):
        with subprocess.Popen([*command, table], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:  # noqa: S603
            while not rows.exists() or rows.read_bytes().count(b"\n") <= least:
                assert process.poll() is None
                time.sleep(0.01)
            process.kill()
        assert rows.read_bytes().endswith(b"\n")
    subprocess.run([*command, table], check=True, capture_output=True)  # noqa: S603
    assert table.read_bytes() == whole.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} - {"cache"} == {"in", table.name, whole.name}
