"""Evaluation: the reference's own figures, the same for any number of processes, and no silent mean over less."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hrnet_zoo.datasets import CITYSCAPES, POTSDAM
from hrnet_zoo.datasets.check import check_data
from hrnet_zoo.datasets.label_rules import CITYSCAPES_IDS
from hrnet_zoo.datasets.layouts import find_samples
from hrnet_zoo.datasets.pairing import UNSUPPORTED
from hrnet_zoo.demo.dataset import write_dataset
from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.errors import ConfigError, DatasetError, ImageError, OutputError
from hrnet_zoo.evaluation.evaluate import (
    IMAGES_PER_ROUND,
    Evaluation,
    _load,
    _same_everywhere,
    _summary,
    default_workers,
    evaluate,
    read_pair,
)
from hrnet_zoo.evaluation.ranks import Ranks
from hrnet_zoo.inference.metrics import Counts, class_totals, count_matrix
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.training.finetune import _check_data
from hrnet_zoo.zoo.catalog import DEMO
from hrnet_zoo.zoo.create import create_model
from tests.evaluation.test_ranks import run
from tests.support.label_folders import own
from tests.support.tables import ROOT

SEEDS = range(3)
SMALL = (192, 96)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_dataset(folder, seeds=SEEDS, progress=False)
    return folder


@pytest.fixture
def copy(scenes: Path, tmp_path: Path) -> Path:
    """Copy the scenes, to be spoilt."""
    shutil.copytree(scenes, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> FCNHRNet:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HRNET_ZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        return create_model("demo", device="cpu")


@pytest.fixture
def small(demo: FCNHRNet, monkeypatch: pytest.MonkeyPatch) -> FCNHRNet:
    """Let the demo network see images at a quarter of their size, to be quick."""
    monkeypatch.setattr(demo, "dataset", dataclasses.replace(demo.dataset, resize_to=SMALL))
    return demo


def score(model: FCNHRNet, root: Path, **options: Any) -> Evaluation:
    return evaluate(model, root, **{"workers": 0, "progress": False, **options})


def labels_of(folder: Path, seed: int) -> Path:
    return folder / f"gtFine/val/demo/demo_{seed:06d}_000019_gtFine_labelIds.png"


def image_of(folder: Path, seed: int) -> Path:
    return folder / f"leftImg8bit/val/demo/demo_{seed:06d}_000019_leftImg8bit.png"


def test_counts_are_those_of_predict(demo: FCNHRNet, scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "dataset", dataclasses.replace(demo.dataset, val_images=3))
    scores = score(demo, scenes)
    expected = np.zeros((19, 19), np.int64)
    for seed in SEEDS:
        drawn = scene(seed)
        expected += count_matrix(drawn.mask, demo.predict(drawn.image).mask, 19)
    assert np.array_equal(scores.counts, expected)
    assert scores.images == 3
    assert scores.totals is not None
    assert np.array_equal(scores.totals.sum(axis=0), class_totals(expected))
    assert np.array_equal(
        scores.totals[1], class_totals(count_matrix(scene(1).mask, demo.predict(scene(1).image).mask, 19))
    )
    assert scores.miou_interval is not None
    assert scores.miou_interval[0] < scores.miou < scores.miou_interval[1]
    assert "mIoU, 95 % interval by a bootstrap over images: {:.2f} to {:.2f}\n".format(*scores.miou_interval) in str(
        scores
    )
    assert scores.published == DEMO.miou
    assert scores.difference == pytest.approx(scores.miou - DEMO.miou)
    assert scores.suspicion is None
    assert "\n3 images; Cityscapes val" in str(scores)


def test_nothing_published_stands_beside_another_number_of_images(small: FCNHRNet, scenes: Path) -> None:
    scores = score(small, scenes)
    assert scores.published is None
    assert "\n3 of 50 images; Cityscapes val" in str(scores)
    facts = scores.to_dict()
    assert (facts["images"], facts["val_images"], facts["limit"]) == (3, 50, None)


def test_a_limit_that_leaves_nothing_out_is_none(
    small: FCNHRNet, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small, "dataset", dataclasses.replace(small.dataset, val_images=3))
    for limit in (3, 4):
        scores = score(small, scenes, limit=limit)
        assert scores.to_dict()["limit"] is None
        assert scores.published == DEMO.miou
        assert "part" not in str(scores)
    assert score(small, scenes, limit=2).to_dict()["limit"] == 2


def test_scales_and_mirroring_are_those_of_predict(small: FCNHRNet, scenes: Path) -> None:
    scores = score(small, scenes, ms_flip=True, limit=1)
    drawn = scene(0)
    assert np.array_equal(scores.counts, count_matrix(drawn.mask, small.predict(drawn.image, ms_flip=True).mask, 19))
    protocol = scores.to_dict()["inference"]
    assert protocol["scales"] == (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    assert protocol["flip"]
    assert scores.published is None  # a part of the images only


def test_windows_where_the_data_set_slides(demo: FCNHRNet, scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slides = dataclasses.replace(demo.dataset, sliding_window=True, crop=(64, 64), resize_to=SMALL)
    monkeypatch.setattr(demo, "dataset", slides)
    drawn = scene(0)
    scores = score(demo, scenes, limit=1)
    assert np.array_equal(scores.counts, count_matrix(drawn.mask, demo.predict(drawn.image, mode="slide").mask, 19))
    assert "windows of 64 px every 42 px" in str(scores)


@pytest.mark.parametrize("options", [{"workers": 1}, {"workers": 3}, {"max_memory": 2_000_000}])
def test_the_same_figures_however_it_is_done(small: FCNHRNet, scenes: Path, options: dict[str, int]) -> None:
    assert score(small, scenes, **options).to_dict() == score(small, scenes).to_dict()


def test_both_kinds_of_cityscapes_labels(small: FCNHRNet, copy: Path) -> None:
    by_ids = score(small, copy)
    for seed in SEEDS:
        path = labels_of(copy, seed)
        Image.fromarray(scene(seed).mask).save(path.with_name(path.name.replace("labelIds", "labelTrainIds")))
        path.unlink()
    by_train_ids = score(small, copy)
    assert np.array_equal(by_ids.counts, by_train_ids.counts)
    assert "official ids" in by_ids.protocol["data"]["labels"]
    assert "train ids" in by_train_ids.protocol["data"]["labels"]


def test_a_folder_of_one_s_own(small: FCNHRNet, tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for seed in SEEDS:
        drawn = scene(seed)
        Image.fromarray(drawn.image).save(tmp_path / f"images/{seed}.png")
        Image.fromarray(drawn.mask).save(tmp_path / f"masks/{seed}.png")
    scores = score(small, tmp_path)
    assert scores.images == 3
    assert scores.published is None  # no dataset of the table
    assert scores.to_dict()["val_images"] is None
    assert scores.miou > 5


def test_photographs_of_formats_that_are_not_read_are_told_of(
    small: FCNHRNet, copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By check-data as a note, by evaluate and finetune in a log line."""
    (image_of(copy, 0).parent / "IMG_1.HEIC").write_bytes(b"x")
    score(small, copy)
    assert [record.getMessage().count("IMG_1.HEIC") for record in caplog.records] == [1]
    folder = find_samples(copy, small.dataset)
    notes = [
        problem
        for problem in check_data(copy, dataset=small.dataset, progress=False).problems
        if "HEIC" in str(problem)
    ]
    assert [problem.kind for problem in notes] == [UNSUPPORTED]
    caplog.clear()
    _check_data(folder, None, progress=False)
    assert [record.getMessage().count("IMG_1.HEIC") for record in caplog.records] == [1]


def test_random_weights_claim_nothing(scenes: Path) -> None:
    torch.manual_seed(0)
    model = create_model("fcn_hr18s_cityscapes_40k", pretrained=False, device="cpu")
    model.dataset = dataclasses.replace(model.dataset, resize_to=(64, 32))
    scores = score(model, scenes)
    assert scores.published is None
    assert scores.suspicion


def test_progress_and_json(small: FCNHRNet, scenes: Path, tmp_path: Path) -> None:
    scores = score(small, scenes, limit=2)
    scores.to_json(tmp_path / "figures.json")
    found = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert found["images"] == found["limit"] == 2
    assert found["inference"]["resize_to"] == list(SMALL)
    assert found["weights"]["source_sha256"] == DEMO.sha256
    assert found["versions"]["torch"] == torch.__version__
    assert (found["dtype"], found["device"]) == ("float32", "cpu")
    assert "2 of 50 images (a part only)" in str(scores)


def test_three_processes_print_the_same_json(demo: FCNHRNet, scenes: Path, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    done = subprocess.run(  # noqa: S603
        [*launcher, "-m", "hrnet_zoo", "evaluate", "demo", scenes, "--json", "--workers", "0"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HRNET_ZOO_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["images"] == 3
    assert facts == json.loads(json.dumps(score(demo, scenes).to_dict()))


# A network that reads images at 64 x 32 pixels, and says which: every second one is a rank's.
MANY = """
import dataclasses, os, sys, zlib
from pathlib import Path
import torch
from hrnet_zoo.evaluation import evaluate as evaluation
from hrnet_zoo.zoo.create import create_model
from hrnet_zoo.errors import HRNetZooError

torch.manual_seed(0)
model = create_model("fcn_hr18s_cityscapes_40k", pretrained=False, device="cpu")
model.dataset = dataclasses.replace(model.dataset, resize_to=(64, 32))
real, seen = evaluation.view_logits, []
evaluation.view_logits = lambda *a, **k: (seen.append(1), real(*a, **k))[1]
try:
    figures = evaluation.evaluate(model, sys.argv[1], workers=1, progress=False)
    sums = (zlib.crc32(each.tobytes()) for each in (figures.counts, figures.totals))
    print(figures.counts.sum(), *sums, *figures.miou_interval)
except HRNetZooError as error:
    print(os.environ.get("RANK"), len(seen), type(error).__name__, str(error).splitlines()[0])
"""


def many(folder: Path, number: int) -> Path:
    """Write small images, of which each has a torn twin that only reading it whole can tell."""
    random = np.random.default_rng(0)
    for index in range(number):
        name = f"demo_{index:06d}_000019"
        for kind in ("leftImg8bit", "gtFine"):
            (folder / kind / "val/demo").mkdir(parents=True, exist_ok=True)
        noise = random.integers(0, 256, (32, 64, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"leftImg8bit/val/demo/{name}_leftImg8bit.png")
        ids = CITYSCAPES_IDS.values(random.integers(0, 19, (32, 64), np.uint8))
        Image.fromarray(ids).save(folder / f"gtFine/val/demo/{name}_gtFine_labelIds.png")
    return folder


def by_ranks(size: int, folder: Path) -> list[str]:
    """Run `MANY` in processes with torchrun's environment; return what they print, by rank."""
    done = run(size, MANY, str(folder))
    assert all(each.returncode == 0 for each in done), [each.stderr for each in done]
    return [each.stdout for each in done]


def test_a_image_that_fails_stops_the_others_soon(tmp_path: Path) -> None:
    folder = many(tmp_path, 5 * IMAGES_PER_ROUND)
    path = image_of(folder, 1)  # of rank 1, in the first round
    path.write_bytes(path.read_bytes()[:-2000])
    first, second = by_ranks(2, folder)
    assert first == f"0 {IMAGES_PER_ROUND} ImageError read an image: {path}\n"  # of its 40
    assert second == first.replace("0 16", "1 0")


def test_rounds_that_not_all_ranks_have_images_for(tmp_path: Path) -> None:
    """With 33 images rank 0 of 2 has 17, and so a second round in which rank 1 has none."""
    folder = many(tmp_path, 2 * IMAGES_PER_ROUND + 1)
    torch.manual_seed(0)
    model = create_model("fcn_hr18s_cityscapes_40k", pretrained=False, device="cpu")
    model.dataset = dataclasses.replace(model.dataset, resize_to=(64, 32))
    alone = score(model, folder)
    assert alone.totals is not None
    assert alone.miou_interval is not None
    sums = (zlib.crc32(each.tobytes()) for each in (alone.counts, alone.totals))
    expected = " ".join(map(str, (33 * 32 * 64, *sums, *alone.miou_interval))) + "\n"
    assert by_ranks(2, folder) == [expected, expected]


def test_the_network_does_not_run_on_masks_that_are_wrong(
    small: FCNHRNet, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hrnet_zoo.evaluation.evaluate.view_logits", pytest.fail)
    spoil_values(copy)
    with pytest.raises(DatasetError, match=r"value outside the classes[\s\S]*demo_000001_000019[\s\S]*computed"):
        score(small, copy)
    train_ids = scene(1).mask
    train_ids[0] = 255
    Image.fromarray(train_ids).save(labels_of(copy, 1))
    with pytest.raises(DatasetError, match=r"ids mixed with train ids[\s\S]*demo_000001_000019"):
        score(small, copy)


def test_most_classes_that_never_occur_are_told(
    small: FCNHRNet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own(tmp_path, ["a", "b"])
    (tmp_path / "classes.txt").write_text("\n".join(small.classes))
    score(small, tmp_path)
    assert "most classes never occur: 16 of 19 (16: wall, " in caplog.text
    caplog.clear()
    score(small, tmp_path, limit=1)  # of one image, it is no wonder
    assert "never occur" not in caplog.text


def test_masks_that_hold_nothing_but_ignored_pixels(small: FCNHRNet, copy: Path) -> None:
    for seed in SEEDS:
        Image.new("L", (768, 384)).save(labels_of(copy, seed))  # 0 is "unlabeled"
        if seed == 1:
            assert score(small, copy).images == 3  # one mask that holds something is enough
    with pytest.raises(DatasetError, match="no pixel of its 3 masks belongs to a class"):
        score(small, copy)


@pytest.mark.parametrize("workers", [0, 1])
def test_too_little_memory_names_the_image(
    workers: int, small: FCNHRNet, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def greedy(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("hrnet_zoo.evaluation.evaluate.resized", greedy)  # in the worker, if there is one
    with pytest.raises(ConfigError, match=r"evaluate demo on \S+demo_000000_000019[\s\S]*too little memory") as caught:
        score(small, scenes, workers=workers)
    assert "change the mIoU" in caught.value.done


def test_too_little_memory_for_the_network(small: FCNHRNet, scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "hrnet_zoo.evaluation.evaluate.view_logits", lambda *_, **__: torch.empty(1 << 50, dtype=torch.uint8)
    )
    with pytest.raises(ConfigError, match=r"evaluate demo on \S+demo_000000_000019[\s\S]*too little memory"):
        score(small, scenes)


def test_default_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)

    def workers(processors: int, processes: str) -> int:
        monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(processors)), raising=False)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        return default_workers()

    assert [workers(*each) for each in ((1, "1"), (6, "1"), (64, "1"), (64, "8"), (4, "8"))] == [1, 3, 8, 4, 1]
    with pytest.raises(ConfigError, match="LOCAL_WORLD_SIZE is 'x'"):
        workers(4, "x")
    for system in ("darwin", "win32"):
        monkeypatch.setattr("sys.platform", system)
        assert default_workers() == 0


def test_the_gpu_is_the_model_s_own(small: FCNHRNet, scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a CPU model say that it is on the third of several GPUs, once its pixels are counted."""
    found = score(small, scenes, limit=1)
    weight = torch.nn.Parameter(torch.empty(0))
    monkeypatch.setattr(type(weight), "device", torch.device("cuda:2"), raising=False)
    monkeypatch.setattr(small, "parameters", lambda: iter([weight]))
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device=None: f"GPU at {device}")
    assert found.totals is not None
    facts = _summary(small, find_samples(scenes, small.dataset), found.counts, found.totals, False, None).to_dict()
    assert facts["device"] == "GPU at cuda:2"


def spoil_size(folder: Path) -> None:
    Image.new("L", (700, 384)).save(labels_of(folder, 1))


def spoil_values(folder: Path) -> None:
    values = CITYSCAPES_IDS.values(scene(1).mask)
    values[:3] = 77
    Image.fromarray(values).save(labels_of(folder, 1))


def spoil_pair(folder: Path) -> None:
    labels_of(folder, 1).unlink()


def spoil_mask(folder: Path) -> None:
    Image.new("RGB", (768, 384)).save(labels_of(folder, 1))


def spoil_image(folder: Path) -> None:
    image_of(folder, 1).write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_size, "700"),
        (spoil_values, "77"),
        (spoil_pair, "mask"),
        (spoil_mask, "RGB"),
        (spoil_image, "empty|zero"),
    ],
)
def test_faults_name_their_file(spoil: Any, words: str, small: FCNHRNet, copy: Path) -> None:
    spoil(copy)
    with pytest.raises(DatasetError, match=rf"(?s)(?=.*demo_000001_000019)(?=.*({words}))"):
        score(small, copy)


def test_a_image_that_fails_late_stops_the_run(small: FCNHRNet, copy: Path) -> None:
    """Its header is good, so that only reading it whole can tell."""
    image_of(copy, 2).write_bytes(image_of(copy, 2).read_bytes()[:-2000])
    with pytest.raises(ImageError, match="demo_000002_000019"):
        score(small, copy, workers=1)


def test_wrong_folders_and_arguments(small: FCNHRNet, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="absent"):
        score(small, tmp_path / "absent")
    with pytest.raises(DatasetError, match="leftImg8bit"):
        score(small, tmp_path)
    for options in ({"limit": 0}, {"workers": -1}, {"max_memory": 0}):
        with pytest.raises(ConfigError, match="at least"):
            score(small, tmp_path, **options)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("ms_flip", [False, True])
def test_cuda_is_within_a_tenth_of_a_point(demo: FCNHRNet, scenes: Path, ms_flip: bool) -> None:
    there = score(create_model("demo", device="cuda"), scenes, ms_flip=ms_flip, workers=2)
    assert there.miou == pytest.approx(score(demo, scenes, ms_flip=ms_flip).miou, abs=0.1)


# --- the figures, by hand ---------------------------------------------------------------------------------------------


def card(counts: Counts, published: float | None = 50.0) -> Evaluation:
    protocol = {"summary": "a dataset", "limit": None}
    return Evaluation("net", ("road", "sky", "tree"), counts, 2, published, protocol)


COUNTS = np.array([[6, 2, 0], [0, 2, 0], [0, 0, 0]], np.int64)


def test_figures_by_hand() -> None:
    scores = card(COUNTS)
    assert scores.miou == pytest.approx(100 * (6 / 8 + 2 / 4) / 2)
    assert scores.macc == pytest.approx(100 * (6 / 8 + 1) / 2)
    assert scores.aacc == pytest.approx(80)
    assert scores.difference == pytest.approx(12.5)
    assert scores.per_class["road"] == (75, 75)
    assert np.isnan(scores.per_class["tree"]).all()
    assert card(COUNTS, None).difference is None


def test_table_shows_published_and_difference() -> None:
    text = str(card(COUNTS))
    assert "net: mIoU 62.50, mAcc 87.50, aAcc 80.00; published 50.00, difference +12.50" in text
    assert any(line.split() == ["tree", "-", "-", "-", "-"] for line in text.splitlines())
    assert any(line.split() == ["road", "75.00", "75.00", "100.00", "85.71"] for line in text.splitlines())
    assert "interval" not in text  # nothing is known of single images
    assert "published" not in str(card(COUNTS, None))


def test_json_is_plain(tmp_path: Path) -> None:
    card(COUNTS).to_json(tmp_path / "figures.json")
    found = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert found["miou"] == 62.5
    assert found["per_class"]["tree"] == dict.fromkeys(("iou", "acc", "precision", "recall", "f1"))
    assert found["per_class"]["sky"] == {
        "iou": 50,
        "acc": 100,
        "precision": 50,
        "recall": 100,
        "f1": pytest.approx(200 / 3),
    }
    assert (found["mean_precision"], found["mean_recall"]) == (75, found["macc"])
    assert found["mean_f1"] == pytest.approx(100 * (12 / 14 + 2 / 3) / 2)
    assert found["confusion_matrix"] == COUNTS.tolist()
    assert found["miou_interval"] is None
    assert found["difference"] == 12.5
    with pytest.raises(OutputError, match=r"figures\.json"):
        card(COUNTS).to_json(tmp_path / "absent" / "figures.json")


def test_nothing_scored_is_null_everywhere(tmp_path: Path) -> None:
    empty = card(np.zeros((3, 3), np.int64))
    empty.to_json(tmp_path / "figures.json")
    found = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert [found[name] for name in ("miou", "macc", "aacc", "difference")] == [None] * 4


def test_how_many_of_how_many() -> None:
    scores = card(COUNTS, None)
    scores.protocol["val_images"] = 500
    assert str(scores).endswith("\n2 of 500 images; a dataset")
    scores.protocol["limit"] = 2
    assert str(scores).endswith("\n2 of 500 images (a part only); a dataset")
    scores.protocol["published_figures"] = POTSDAM.figures_note
    assert "published figures of this dataset are measured on 2,016 tiles of 512 x 512 pixels with eroded" in str(
        scores
    )
    scores.protocol.update(val_images=2, limit=None)
    assert str(scores).endswith("\n2 images; a dataset")


def test_a_hopeless_figure_is_explained() -> None:
    assert card(COUNTS).suspicion is None
    assert "numbered differently" in str(card(COUNTS[[1, 2, 0]]).suspicion)
    assert card(np.zeros((3, 3), np.int64)).suspicion is None


# --- what no run of one process on checked data meets -----------------------------------------------------------------


@pytest.mark.parametrize("names", [("x",), ("x", "z")])
def test_ranks_that_see_other_images(names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = (find_samples(own(tmp_path / str(len(each)), each), None) for each in (("x", "y"), names))
    monkeypatch.setattr(Ranks, "all_gather", lambda self, work: [work(), there])
    with pytest.raises(DatasetError, match="process 0 sees 2 images, process 1 sees") as caught:
        _same_everywhere(Ranks(0, 2, torch.device("cpu")), lambda: here)
    assert caught.value.advice == "give every machine the same copy of the data"


def test_labels_that_changed_since_they_were_checked(tmp_path: Path) -> None:
    folder = find_samples(own(tmp_path / "data", ("x",)), CITYSCAPES.with_classes(("a", "b", "c")))
    (sample,) = folder.samples
    with Image.open(sample.image) as image:
        width, height = image.size
    Image.fromarray(np.zeros((height, width + 1), np.uint8)).save(sample.labels)
    with pytest.raises(DatasetError, match=rf"image has {width} x {height} pixels, the labels have {width + 1} x"):
        _load(sample, resize_to=(64, 64), ms_flip=False, rule=folder.rule)
    Image.fromarray(np.full((height, width), 77, np.uint8)).save(sample.labels)
    with pytest.raises(DatasetError, match="the values 77 are not classes; the rule here: ") as caught:
        _load(sample, resize_to=(64, 64), ms_flip=False, rule=folder.rule)
    assert "the run was stopped" in caught.value.done


def test_read_pair_gives_class_indices(scenes: Path) -> None:
    sample = find_samples(scenes, CITYSCAPES).samples[2]
    image, labels = read_pair(sample, CITYSCAPES_IDS)
    assert np.array_equal(image, scene(2).image)
    assert np.array_equal(labels, scene(2).mask)
