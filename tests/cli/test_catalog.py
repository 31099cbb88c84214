"""The commands `list`, `info` and `log`."""

import csv
import json
from pathlib import Path

from tests.cli.conftest import Run

NAME = "fcn_hr18s_cityscapes_40k"


def test_list_is_the_published_table(run: Run) -> None:
    published: list[dict[str, str]] = []
    for name in ("published_rows", "further_rows"):
        with (Path(__file__).parents[1] / "data" / f"{name}.csv").open(newline="") as file:
            published += csv.DictReader(file)
    listed = json.loads(run("list", "--json"))
    assert len(listed) == 62
    names = [row["name"] for row in published]
    assert [line.split()[0] for line in run("list").splitlines() if "_" in line] == names
    for row, facts in zip(published, listed, strict=True):
        for key, cell in row.items():
            fact = facts[key]
            assert (float(cell) == fact) if isinstance(fact, float) else (("" if fact is None else str(fact)) == cell)


def test_list_filters(run: Run) -> None:
    assert len(run("list", "*voc*", "--arch", "hr48", "--method", "fcn").splitlines()) == 3
    assert run("list", "--method", "OCRNet", "--dataset", "voc12aug").split()[5] == "ocrnet_hr18s_voc12aug_20k"
    run("list", "--dataset", "coco", code=2)
    assert run("list", "cityscapes") == run("list", "*cityscapes*")
    assert run("list", "nothing") == ""
    assert "no model's name has 'nothing' in it" in run.err


def test_info(run: Run) -> None:
    facts = json.loads(run("info", "fcn_hr48_512x1024_160k_cityscapes", "--json"))
    assert facts["name"] == "fcn_hr48_cityscapes_160k"
    assert facts["miou"] == 80.65
    assert facts["classes"][0] == "road"
    assert facts["palette"][0] == [128, 64, 128]
    assert "train_memory_gb         -" in run("info", "fcn_hr48_cityscapes_160k")
    assert "knows                   generated street scenes, and nothing else" in run("info", "demo")


def test_unknown_name(run: Run) -> None:
    assert run("info", "fcn_hr48_cityscapes_16k", code=2) == ""
    assert run.err.startswith("error: the model 'fcn_hr48_cityscapes_16k': no published model has this name; ")
    assert "fcn_hr48_cityscapes_160k" in run.err
