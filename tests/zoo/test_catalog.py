"""The 62 rows, held against the recorded tables of the reference."""

import csv
import dataclasses
from pathlib import Path

import pytest

from hrnet_zoo.errors import ConfigError, UnknownModelError
from hrnet_zoo.weights.convert import network_shapes, with_classes
from hrnet_zoo.zoo.catalog import ARCHS, DEMO, METHODS, TABLE_ROWS, list_models, model_info, recognize

PUBLISHED: list[dict[str, str]] = []
for _name in ("published_rows", "further_rows"):  # the user's table; all others
    with (Path(__file__).parents[1] / "data" / f"{_name}.csv").open(newline="") as _file:
        PUBLISHED += csv.DictReader(_file)

NAMES = [row["name"] for row in PUBLISHED]


def test_names_in_the_tables_order() -> None:
    assert len(NAMES) == 62
    assert list_models() == NAMES
    assert list_models(method="FCN")[:TABLE_ROWS] == NAMES[:TABLE_ROWS] == NAMES[:23]


def test_the_recorded_tables_are_those_of_the_facts(shared: Path) -> None:
    with (shared / "facts/further_rows.csv").open(newline="") as file:
        facts = list(csv.DictReader(file))
    names = {"crop": "crop_size", "lr_schedule": "lr_schedule_iterations", "mem_gb": "train_memory_gb"}
    for row, fact in zip(PUBLISHED[TABLE_ROWS:], facts, strict=True):
        same = {names.get(key, key): cell for key, cell in fact.items() if names.get(key, key) in row}
        assert same.items() <= row.items()
        info = model_info(row["name"])
        assert (info.config, str(info.num_classes)) == (fact["name_0x_config"], fact["num_classes"])
        side, stride = info.dataset.window
        mode = f"slide/{side}x{side}/{stride}x{stride}" if info.dataset.sliding_window else "whole"
        assert mode == fact["test_mode/crop/stride"]
        assert f"({info.dataset.resize_to[0]},{info.dataset.resize_to[1]})" in fact["preprocessing_differences"]


@pytest.mark.parametrize("row", PUBLISHED, ids=NAMES)
def test_every_cell(row: dict[str, str]) -> None:
    facts = model_info(row["name"]).to_dict()
    for key, cell in row.items():
        fact = facts[key]
        if isinstance(fact, float):
            assert fact == float(cell), key
        else:
            assert ("" if fact is None else str(fact)) == cell, key


@pytest.mark.parametrize("row", PUBLISHED, ids=NAMES)
def test_other_names_lead_to_the_row(row: dict[str, str]) -> None:
    info = model_info(row["name"])
    url = row["checkpoint_url"]
    config = url.split("/")[-2]
    assert row["name"] not in (config, *info.aliases)
    assert info.config == config
    if row["name"].endswith("_retrained"):  # by the configuration of another row
        assert model_info(config).name == row["name"].removesuffix("_retrained")
        config = url
    for name in (config, url.rsplit("/", 1)[1], url, f"https://mirror.example/x/{url.rsplit('/', 1)[1]}"):
        assert model_info(name) is info


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("fcn_hr48_512x1024_160k_cityscapes", "fcn_hr48_cityscapes_160k"),
        ("fcn_hr48_4xb2-160k_cityscapes-512x1024", "fcn_hr48_cityscapes_160k"),
        ("fcn_hr18s_4xb4-80k_ade20k-512x512", "fcn_hr18s_ade20k_80k"),
        ("fcn_hr18_4xb4-20k_voc12aug-512x512", "fcn_hr18_voc12aug_20k"),
        ("fcn_hr48_4xb4-40k_pascal-context-480x480", "fcn_hr48_pascal_context_40k"),
        ("fcn_hr48_4xb4-80k_pascal-context-59-480x480", "fcn_hr48_pascal_context_59_80k"),
        ("fcn_hr18_4x4_896x896_80k_isaid", "fcn_hr18_isaid_80k"),
        ("fcn_hr18s_4xb4-80k_vaihingen-512x512", "fcn_hr18s_vaihingen_80k"),
        ("fcn_hr18_512x512_80k_ade20k", "fcn_hr18_ade20k_80k"),
        ("ocrnet_hr18s_512x1024_40k_cityscapes", "ocrnet_hr18s_cityscapes_40k_2020"),
        ("ocrnet_hr18s_4xb2-40k_cityscapes-512x1024", "ocrnet_hr18s_cityscapes_40k"),
        ("ocrnet_hr48_4xb4-160k_ade20k-512x512", "ocrnet_hr48_ade20k_160k"),
    ],
)
def test_configuration_names_of_both_generations(alias: str, name: str) -> None:
    assert model_info(alias).name == name


def test_no_two_rows_share_a_name() -> None:
    every = [name for row in NAMES for name in (row, *model_info(row).aliases)]
    assert len(every) == len(set(every))
    assert len({address for row in PUBLISHED for address in (row["checkpoint_url"], row["log_url"])}) == 2 * 62


def test_rows_are_frozen() -> None:
    with pytest.raises(AttributeError):
        model_info(NAMES[0]).miou = 100.0  # type: ignore[misc]


def test_lists_by_pattern_data_set_and_network() -> None:
    assert len(list_models("*cityscapes*", method="FCN")) == 9
    assert len(list_models(method="OCRNet")) == 22
    assert list_models(dataset="pascal_context") == ["fcn_hr48_pascal_context_40k", "fcn_hr48_pascal_context_80k"]
    assert list_models("*_160k", dataset="ade20k", arch="hr18") == ["fcn_hr18_ade20k_160k", "ocrnet_hr18_ade20k_160k"]
    assert list_models("nothing like this") == []
    assert list_models("cityscapes") == list_models("Cityscapes") == list_models("*cityscapes*")
    assert list_models("fcn_hr18_ade20k_80k") == ["fcn_hr18_ade20k_80k", "fcn_hr18_ade20k_80k_retrained"]
    with pytest.raises(ConfigError, match="method is one of FCN, OCRNet"):
        list_models(method="PSPNet")
    with pytest.raises(ConfigError, match="dataset is one of cityscapes, ade20k, voc12aug, pascal_context"):
        list_models(dataset="coco")
    with pytest.raises(ConfigError, match="arch is one of hr18s, hr18, hr48"):
        list_models(arch="hr32")


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("fcn_hr48_cityscapes_120k", "fcn_hr48_cityscapes_160k"),
        ("fcn_hr18_ade20k", "fcn_hr18_ade20k_80k"),
        ("hr48_voc12aug_40k", "fcn_hr48_voc12aug_40k"),
        ("fcn_hr48_512x512_160k_cityscapes", "fcn_hr48_cityscapes_160k"),
        ("hrnet_w48", "fcn_hr48_ade20k_160k"),
        ("hrnet_w18_small_v2.ms_in1k", "fcn_hr18s_cityscapes_160k"),
        ("HRNetV2-W48-ADE20K", "fcn_hr48_ade20k_160k"),
        ("FCN-HR18-Cityscapes-160k", "fcn_hr18_cityscapes_160k"),
        ("cityscapes", "fcn_hr48_cityscapes_80k"),
        ("HRNetV2-W48-OCR", "ocrnet_hr48_ade20k_160k"),
        ("ocr_hr18_cityscapes_160k", "ocrnet_hr18_cityscapes_160k"),
    ],
)
def test_a_wrong_name_gets_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(UnknownModelError) as caught:
        model_info(wrong)
    assert nearest in caught.value.nearest
    assert nearest in str(caught.value)
    assert wrong in str(caught.value)
    assert "hrnet-zoo list" in str(caught.value)


@pytest.mark.parametrize("name", ["w32", "W32", "HRNet-W32", "hrnetv2_w32", "hr32"])
def test_a_network_without_a_published_model_may_start_from_imagenet(name: str) -> None:
    with pytest.raises(UnknownModelError, match="to start from ImageNet: hrnet-zoo finetune hr32, "):
        model_info(name)


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        ("runs/best.pth", "create_model(NAME, checkpoint='runs/best.pth'), or --checkpoint"),
        ("photo.jpg", "the model comes first: hrnet-zoo predict demo photo.jpg"),
        ("my-org/cracks", "hf-hub:my-org/cracks"),
        ("https://huggingface.co/my-org/cracks", "hf-hub:my-org/cracks"),
        ("nonsense", "hrnet-zoo list"),
    ],
)
def test_what_is_no_name_but_another_thing(
    wrong: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photo.jpg").touch()
    with pytest.raises(UnknownModelError) as caught:
        model_info(wrong)
    assert advice in caught.value.advice


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "a\0b", "http://[", "https://", "x" * 10_000])
def test_senseless_names(name: str) -> None:
    with pytest.raises(UnknownModelError) as caught:
        model_info(name)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("arch", ARCHS)
def test_parameters_are_those_of_the_network(arch: str, method: str) -> None:
    shapes = network_shapes(arch, 19, method)
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    rows = [model_info(name) for name in list_models(method=method) if model_info(name).arch == arch]
    for info in rows or [dataclasses.replace(model_info(list_models(method=method)[0]), arch=arch)]:
        learned = with_classes(shapes, info.num_classes).items()
        assert info.parameters == sum(shape.numel() for name, shape in learned if not name.endswith(buffers)), info.name


def test_license_note_names_all_three_terms() -> None:
    for name in NAMES:
        note = model_info(name).license_note
        assert "Apache-2.0" in note
        assert "mmsegmentation" in note
        assert ("non-commercial" in note) == any(key in name for key in ("cityscapes", "ade20k", "loveda"))


def test_a_file_is_recognized_by_its_digest() -> None:
    assert recognize("93db27d0" + 56 * "0") is model_info("fcn_hr18s_cityscapes_40k")
    assert recognize(64 * "f") is None


def test_the_demo_is_found_but_not_listed() -> None:
    assert model_info("demo") is DEMO
    assert model_info(DEMO.file_name) is DEMO
    assert DEMO.classes == model_info("fcn_hr48_cityscapes_40k").classes
    assert Path(DEMO.checkpoint_url.removeprefix("file://")).is_file()
    assert DEMO.sha256 is not None
    assert DEMO.sha256.startswith(DEMO.sha256_prefix)
    assert "demo" not in list_models()
    assert recognize(DEMO.sha256) is DEMO


@pytest.mark.parametrize("name", ["local-dir:runs/a", "hf-hub:me/street"])
def test_a_saved_model_is_in_no_row(name: str) -> None:
    with pytest.raises(UnknownModelError, match=f"hrnet-zoo info {name}` tells everything"):
        model_info(name)
