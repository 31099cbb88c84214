"""The whole corpus of attacks, at the doors that users have: nothing is executed or made, and no traceback shown."""

import ast
import json
import os
import pickletools
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import hrnet_zoo
from hrnet_zoo.cli import main
from hrnet_zoo.errors import CheckpointError
from hrnet_zoo.weights import scan
from hrnet_zoo.weights.convert import read_checkpoint
from hrnet_zoo.weights.scan import inspect_checkpoint
from hrnet_zoo.zoo.create import create_model
from hrnet_zoo.zoo.model_folder import read_folder
from hrnet_zoo.zoo.resolve import load_custom
from tests.cli.conftest import Run
from tests.support.checkpoints import ATTACKS, HARMLESS, PROTO, VALUES, legacy_file
from tests.support.fuzz import EXPECTED, mutant
from tests.support.images import bad_images, good_images
from tests.weights.test_scan import BAD_HEADERS

PACKAGE = Path(hrnet_zoo.__file__).parent
MOST_BYTES = 20 << 20  # that refusing one file may take
MOST_OPCODES = 70_000  # that the gate reads of one attack: 50 ms on a slow machine, and what HRNet-W48 needs

_FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "import")
_watched: list[str] | None = None  # what was done since watching began; None: nobody watches


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    if _watched is None:
        return
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if event in _FORBIDDEN or writes:
        _watched.append(f"{event} {arguments[0]!r}")


sys.addaudithook(_hear)  # for good: Python takes none back


@contextmanager
def nothing_happens() -> Iterator[None]:
    """Fail if a process is started, a module imported, a connection or a file for writing opened."""
    global _watched
    _watched = []
    try:
        yield
        assert _watched == []
    finally:
        _watched = None


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


def test_the_watch_hears(tmp_path: Path) -> None:
    deeds: list[Callable[[], object]] = [
        lambda: os.system("true"),  # noqa: S605, S607
        lambda: (tmp_path / "a").write_bytes(b""),
        lambda: __import__("this_does_not_exist"),
    ]
    for deed in deeds:
        with pytest.raises(AssertionError), nothing_happens(), suppress(ImportError):
            deed()
    with nothing_happens():
        (tmp_path / "a").read_bytes()


@pytest.fixture
def opcodes_read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Count what is read of pickles; the work and the memory that it may take are bounds that no clock measures."""
    read = [0]

    def counted(stream: object) -> Iterator[object]:
        for step in pickletools.genops(stream):  # type: ignore[arg-type]
            read[0] += 1
            yield step

    monkeypatch.setattr(scan, "genops", counted)
    tracemalloc.start()
    try:
        yield read
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()
    assert read[0] < MOST_OPCODES


@pytest.mark.parametrize("name", ATTACKS)
def test_refused_before_anything_is_made(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opcodes_read: list[int]
) -> None:
    """Without a trace."""
    data, error, _ = ATTACKS[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load was called"))
    monkeypatch.setattr(torch, "from_numpy", lambda *_, **__: pytest.fail("a tensor was made"))
    with nothing_happens(), pytest.raises(error):
        read_checkpoint(data, "evil.pth")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", HARMLESS)
def test_what_lies_beside_the_weights_is_not_made(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opcodes_read: list[int]
) -> None:
    """The weights are had, and nothing else happens."""
    monkeypatch.chdir(tmp_path)
    with nothing_happens():
        state = read_checkpoint(HARMLESS[name], "a.pth").state
    assert [*state] == ["w0"]
    assert state["w0"].numpy().tobytes() == VALUES
    assert opcodes_read[0]
    assert not list(tmp_path.iterdir())


def test_a_pickle_of_too_many_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a pickle is, the walk ends."""
    monkeypatch.setattr(scan, "_MAX_OPCODES", 100)
    with pytest.raises(CheckpointError, match="far larger than a checkpoint needs"):
        inspect_checkpoint(legacy_file(PROTO + b"]" + b"Na" * 100 + b".", (), b""), "a.pth")


def test_the_package_unpickles_nothing() -> None:
    """No unpickler, not even torch's restricted one; no unchecked connection, no way around a check."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names}
                if names != {"PicklingError"}:
                    names.add(getattr(node, "module", None) or "")
                assert not {"pickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve"} & names, path
            if isinstance(node, ast.Call):
                called, words = ast.unparse(node.func), {each.arg: each.value for each in node.keywords}
                assert called not in ("eval", "exec", "compile", "torch.load", "torch.hub.load", "torch.jit.load"), path
                assert "verify" not in words or not called.startswith(("requests.", "session.")), path
                assert not {"trust_remote_code", "allow_pickle"} & words.keys(), path
                assert called != "network.load_state_dict" or ast.unparse(words["strict"]) == "True", path


# --- the command line, over everything -------------------------------------------------------------------------------


def test_checkpoints(run: Run, tmp_path: Path, cache: Path) -> None:
    """Each is refused by `import` with the exit code of its kind, and nothing comes into the cache."""
    paths = []
    for index, (data, _, _) in enumerate(ATTACKS.values()):
        paths.append(tmp_path / f"{index}.pth")
        paths[-1].write_bytes(data)
    assert run("import", *paths, code=4) == ""
    assert run.err.count("error: ") == run.err.count("\n  next:") == len(ATTACKS)
    image = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(image)
    for path in (paths[0], paths[40]):
        run("predict", "fcn_hr18s_cityscapes_40k", image, "--out", tmp_path / "o", "--checkpoint", path, code=4)
    assert not list(cache.rglob("*.safetensors"))
    assert not list(cache.rglob("*.sha256"))
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_safetensors(name: str, tmp_path: Path) -> None:
    """A user's own file and a model folder with such a file."""
    (tmp_path / "model.safetensors").write_bytes(BAD_HEADERS[name][0])
    with pytest.raises(CheckpointError):
        load_custom(str(tmp_path / "model.safetensors"), "hr18s", EXPECTED, progress=False)
    with pytest.raises(CheckpointError):
        create_model(f"local-dir:{tmp_path}")


def test_images(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All 130 in one folder: the good ones are labeled, each bad one is told of once."""
    network = create_model("demo", device="cpu")
    network.dataset = replace(network.dataset, resize_to=(64, 32))
    monkeypatch.setattr("hrnet_zoo.cli.options.load_model", lambda *_, **__: network)
    good, bad = good_images(), bad_images()
    contents = {name: each.data for name, each in good.items()} | {name: each.data for name, each in bad.items()}
    for name, data in contents.items():
        (tmp_path / f"{name}.jpg").write_bytes(data)
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    out = run("predict", "demo", tmp_path, "--out", tmp_path / "out", "--json", "--no-overlay", code=5)
    facts = json.loads(out)
    assert sorted(Path(each["image"]).stem for each in facts["images"]) == sorted(good)
    assert sorted(Path(path).stem for path in facts["failed"]) == sorted([*bad, "loop"])
    assert f"{len(good)} of {len(good) + len(bad) + 1} images labeled, {len(bad) + 1} failed" in run.err
    run("predict", "demo", tmp_path, "--out", tmp_path / "two", "--on-error", "raise", "--no-overlay", code=5)
    assert run.err.count("\n  next:") == 1


def _folders(top: Path) -> dict[str, Callable[[], None]]:
    """Return makers of bad folders below `top`, by name."""
    image = Image.new("RGB", (4, 4))

    def pairs(masks: Image.Image, images: Image.Image = image) -> None:
        for kind, made in (("images", images), ("masks", masks)):
            (top / kind).mkdir(parents=True, exist_ok=True)
            made.save(top / kind / "a.png")

    gray = Image.new("L", (4, 4))

    def write(place: str, data: bytes, *, beside: bool = False) -> None:
        if beside:  # a sound pair
            pairs(gray)
        (top / place).parent.mkdir(parents=True, exist_ok=True)
        (top / place).write_bytes(data)

    def loop() -> None:
        (top / "images").mkdir(parents=True)
        (top / "images" / "x").symlink_to(top / "images")

    return {
        "absent": lambda: None,
        "empty": top.mkdir,
        "a file": top.touch,
        "masks of colors": lambda: pairs(image),
        "masks of another size": lambda: pairs(Image.new("L", (4, 5))),
        "masks of 16 bits": lambda: pairs(Image.new("I;16", (4, 4))),
        "an image without mask": lambda: write("images/b.png", b"", beside=True),
        "a mask without image": lambda: write("masks/b.png", b"", beside=True),
        "a mask that is a page": lambda: write("masks/a.png", b"<html>", beside=True),
        "two images of a name": lambda: write("images/a.jpg", b"\xff\xd8\xff", beside=True),
        "classes that are no text": lambda: write("classes.txt", b"\xff\xfe\0", beside=True),
        "classes twice": lambda: write("classes.txt", b"road\nroad\n", beside=True),
        "no images": lambda: write("masks/a.png", b""),
        "a loop": loop,
    }


@pytest.mark.parametrize("name", _folders(Path()))
def test_folders(name: str, run: Run, tmp_path: Path) -> None:
    """Each is refused by all three commands that read labeled images, in words, before anything is computed."""
    _folders(tmp_path / "folder")[name]()
    for command in (
        ("check-data", tmp_path / "folder"),
        ("evaluate", "demo", tmp_path / "folder", "--device", "cpu", "--classes", "road,sky", "--workers", "0"),
        ("finetune", "demo", "--data", tmp_path / "folder", "--out", tmp_path / "out", "--device", "cpu"),
    ):
        with pytest.raises(SystemExit) as caught:
            main([str(word) for word in command])
        out, err = run.capsys.readouterr()
        assert caught.value.code in (2, 5), (command, out, err)
        assert "next:" in out + err
        assert "Traceback" not in err


def test_configurations(run: Run, tmp_path: Path) -> None:
    """Fuzzed ones are `tests/slow/test_fuzz.py`'s; here those that a command meets."""
    create_model("fcn_hr18s_cityscapes_40k", pretrained=False, device="cpu").save_pretrained(tmp_path / "m")
    for which in range(40):
        (tmp_path / "m" / "config.json").write_bytes(mutant("config", which))
        run("info", f"local-dir:{tmp_path / 'm'}", code=4 if is_refused(tmp_path / "m") else 0)


def is_refused(folder: Path) -> bool:
    """Whether the folder is refused by the function, to which the command must agree."""
    try:
        read_folder(folder)
    except CheckpointError:
        return True
    return False
