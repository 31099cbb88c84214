"""`classes.txt`, in every form in which people write it."""

from pathlib import Path

import pytest

from hrnet_zoo.datasets.class_list import read_class_list
from hrnet_zoo.errors import DatasetError

ROAD, SKY = "road", "night sky"


@pytest.mark.parametrize(
    "data",
    [
        b"road\nnight sky\n",
        b"road\r\nnight sky\r\n",
        b"\n road \n\n\tnight sky\t",
        b"\xef\xbb\xbfroad\nnight sky",
        "road\nnight sky\n".encode("utf-16"),  # Notepad
        b"# my classes\nroad\n#another\nnight sky\n",
        b"road # gray\nnight sky  # black\n",
        b"road,\nnight sky,\n",
        b"0: road\n1: night sky\n",
        b"0 road\n1 night sky\n",
        b"0\troad\n1\tnight sky\n",
        b"0,road\n1,night sky\n",
        "road\u200b\n\ufeffnight sky\n\u200b\n".encode(),
    ],
)
def test_the_same_names(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes(data)
    found = read_class_list(tmp_path / "classes.txt")
    assert (found.names, found.colors) == ((ROAD, SKY), {})


@pytest.mark.parametrize(
    "names",
    [
        ("1 euro", "euro"),
        ("building #2", "C#"),
        ("class 0", "class 1"),
        ("door, double door", "x"),
        ("0", "1"),
        ("Straße", "\u0645\u06cc\u200c\u062e"),
    ],
)
def test_names_that_stay_as_they_are(names: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("\n".join(names), encoding="utf-8")
    assert read_class_list(tmp_path / "classes.txt").names == names


def test_colors(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("0: background\n1: road #804080 # asphalt\n2: night sky #00fF01\n")
    found = read_class_list(tmp_path / "classes.txt")
    assert found.names == ("background", ROAD, SKY)
    assert found.colors == {ROAD: (128, 64, 128), SKY: (0, 255, 1)}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no names"),
        (b"# only\n# comments\n", "no names"),
        (b"road\nsky\nroad\n", "'road' appears more than once"),
        (b"road\n\xe2\x80\x8broad\n", "'road' appears more than once"),
        (b"1: road\n2: sky\n", "'1: road' where the number 0 is expected"),
        (b"0: road\n2: sky\n", "'2: sky' where the number 1 is expected"),
        (b"1 euro\n2 euro\n", "'1 euro' where the number 0"),
        (b"128 64 128 road\n0 0 0 sky", "the number 0 is expected"),
        (b"road,128,64,128\nsky,0,0,0\n", "colors as #rrggbb"),
        (b"road 128 64 128\n", "colors as #rrggbb"),
        (b"name,r,g,b\nroad,128,64,128\n", "colors as #rrggbb"),
        (b"road\nsky\n\0", "is not a class name"),
        (b"ro\x1b[31mad\nsky\n", "is not a class name"),
        (b"road\tstreet\nsky\n", "is not a class name"),
        (b"nc: 2\nnames: [road, sky]\n", "'nc: 2' is not a class name"),
        (b"sky: 1\nroad: 0\n", "'sky: 1' is not a class name"),
        (b"train: ../a\nnames:\n- a\n", "'train: ../a' is not a class name"),
        ("stra\u00dfe\n".encode("cp1252"), "not UTF-8"),
        ("road\n".encode("utf-16")[:-1], "not UTF-8"),
        (b"road\n''\n", "is not a class name"),
        (b"__ignore__\n_background_\nroad\n", "not a class name"),
        (b"names:\n- road\n- sky\n", "'names:' is not a class name"),
        (b"- road\n- sky\n", "'- road' is not a class name"),
        (b'["road", "sky"]', "is not a class name"),
        (b'{\n  "road": 0,\n  "sky": 1\n}\n', "is not a class name"),
        (b"road\t0\nsky\t1\n", "is not a class name"),
        (b"road, night sky,", "one line, 'road, night sky'"),
    ],
)
def test_what_is_refused(data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes(data)
    with pytest.raises(DatasetError, match=words) as caught:
        read_class_list(tmp_path / "classes.txt")
    assert caught.value.path == tmp_path / "classes.txt"
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(DatasetError, match="No such file"):
        read_class_list(tmp_path / "classes.txt")
