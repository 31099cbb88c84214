"""The probe, what is recorded of the bundled network, and what a wrong weight does to it."""

import dataclasses
import hashlib
import json
import math
from pathlib import Path

import pytest
import torch

from hrnet_zoo.errors import ConfigError, OfflineError, OutputError, UnknownModelError
from hrnet_zoo.evaluation.fingerprints import (
    SAMPLES,
    TOLERANCE,
    Fingerprint,
    compare,
    fingerprint,
    probe,
    record,
    recorded,
    reference,
    save,
    to_json,
)
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.zoo.catalog import DEMO, list_models

PROBE = "369df8876451c175fa7c4da109daa0b88237db87ea7d11c8121ce03bd35f4f89"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> FCNHRNet:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HRNET_ZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        return reference("demo", progress=False)


@pytest.fixture(scope="module")
def known() -> Fingerprint:
    found = recorded("demo")
    assert found is not None
    return found


def test_the_probe_is_the_same_everywhere() -> None:
    image = probe()
    assert image.shape == (97, 131, 3)
    assert hashlib.sha256(image.tobytes()).hexdigest() == PROBE


def test_the_bundled_network_is_as_recorded(demo: FCNHRNet, known: Fingerprint) -> None:
    found = fingerprint(demo)
    assert found.data_sha256 == known.data_sha256
    assert found.source_sha256 == known.source_sha256 == DEMO.sha256
    deviation = compare(found, known, demo.classes)
    assert deviation.fine, deviation


def test_statistics(known: Fingerprint) -> None:
    statistics = known.statistics
    by_class = {name: values for name, values in statistics.items() if name != "samples"}
    assert {len(values) for values in by_class.values()} == {19}
    assert len(statistics["samples"]) == SAMPLES
    assert sum(statistics["share"]) == pytest.approx(1, abs=1e-5)
    for low, mean, high in zip(statistics["minimum"], statistics["mean"], statistics["maximum"], strict=True):
        assert low <= mean <= high
    lowest, highest = min(statistics["minimum"]), max(statistics["maximum"])
    assert all(lowest <= sample <= highest for sample in statistics["samples"])


def test_a_wrong_weight_is_found_and_named(demo: FCNHRNet, known: Fingerprint) -> None:
    bias = demo.decode_head.conv_seg.bias
    assert bias is not None
    wall = demo.classes.index("wall")
    with torch.no_grad():
        bias[wall] += 0.01
    try:
        deviation = compare(fingerprint(demo), known, demo.classes)
    finally:
        with torch.no_grad():
            bias[wall] -= 0.01
    assert not deviation.fine
    assert deviation.statistic.endswith("of 'wall'")
    assert deviation.found - deviation.recorded == pytest.approx(0.01, abs=1e-4)


def test_a_wrong_weight_deep_inside_is_found(demo: FCNHRNet, known: Fingerprint) -> None:
    weight = demo.backbone.conv1.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight[0, 0, 0, 0] += 0.05
    try:
        assert not compare(fingerprint(demo), known, demo.classes).fine
    finally:
        with torch.no_grad():
            weight.copy_(before)


def test_classes_in_another_order_are_found(known: Fingerprint, demo: FCNHRNet) -> None:
    turned = {name: (*values[1:], values[0]) for name, values in known.statistics.items()}
    assert not compare(dataclasses.replace(known, statistics=turned), known, demo.classes).fine


def test_not_a_number_does_not_hide(known: Fingerprint, demo: FCNHRNet) -> None:
    means = list(known.statistics["mean"])
    means[2] = math.nan
    broken = dataclasses.replace(known, statistics={**known.statistics, "mean": means})
    deviation = compare(broken, known, demo.classes)
    assert deviation.statistic == "mean of 'building'"
    assert not deviation.fine


def test_one_place_that_falls_to_another_class_is_fine(known: Fingerprint, demo: FCNHRNet) -> None:
    shares = list(known.statistics["share"])
    shares[0] += 1 / 825
    moved = dataclasses.replace(known, statistics={**known.statistics, "share": shares})
    assert compare(moved, known, demo.classes).fine
    shares[0] += 9 / 825
    deviation = compare(moved, known, demo.classes)
    assert deviation.statistic == "share of 'road'"
    assert not deviation.fine
    assert deviation.tolerance > TOLERANCE


# --- recording -------------------------------------------------------------------------------------------------------


def test_record_and_read_again(tmp_path: Path) -> None:
    made = record("demo", progress=False)
    assert list(made) == ["demo"]
    path = tmp_path / "fingerprints.json"
    save(made, path)
    assert path.read_text(encoding="utf-8") == to_json(made)
    assert recorded("demo", path) == Fingerprint(
        **{**dataclasses.asdict(made["demo"]), "statistics": dict(made["demo"].statistics)}
    )
    assert recorded("fcn_hr18s_cityscapes_40k", path) is None
    assert record(progress=False) == made  # of what is in the cache


def test_others_stay_and_rows_keep_the_tables_order(tmp_path: Path, known: Fingerprint) -> None:
    path = tmp_path / "fingerprints.json"
    first, second = list_models()[:2]
    save({second: known, "demo": known}, path)
    newer = dataclasses.replace(known, data_sha256="0" * 64)
    save({first: known, "demo": newer}, path)
    assert list(json.loads(path.read_text(encoding="utf-8"))) == [first, second, "demo"]
    assert recorded("demo", path) == newer
    assert recorded(second, path) == known
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fingerprints.json"]


def test_what_is_shipped_is_what_is_written() -> None:
    shipped = Path(recorded.__code__.co_filename).with_name("fingerprints.json")
    content = json.loads(shipped.read_text(encoding="utf-8"))
    assert to_json({name: Fingerprint(**entry) for name, entry in content.items()}) == shipped.read_text("utf-8")
    assert set(content) <= {*list_models(), "demo"}


def test_bad_input(tmp_path: Path, known: Fingerprint, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownModelError):
        record("fcn_hr48", progress=False)
    with pytest.raises(ConfigError, match="hrnet-zoo download --all"):
        record(progress=False)
    monkeypatch.setenv("HRNET_ZOO_OFFLINE", "1")
    with pytest.raises(OfflineError):
        record("fcn_hr18s_cityscapes_40k", progress=False)
    for content in ("{", "[1]", '{"demo": {"data": 1}}', '{"demo": 3}'):
        (tmp_path / "notes.json").write_text(content)
        with pytest.raises(ConfigError, match=r"notes\.json"):
            save({"demo": known}, tmp_path / "notes.json")
        assert (tmp_path / "notes.json").read_text() == content
    with pytest.raises(OutputError):
        save({"demo": known}, tmp_path / "absent" / "fingerprints.json")
    with pytest.raises(ConfigError):
        save({"demo": known}, tmp_path)
