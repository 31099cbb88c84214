"""Imports run one way: a folder imports only folders above it in the list, `errors`, and itself."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import hrnet_zoo

PACKAGE = Path(hrnet_zoo.__file__).parent

# The house, top to bottom. Scenes stand above the catalog, whose rows name the bundled checkpoint.
HOUSE = (
    "images",
    "datasets",
    "demo",
    "models",
    "weights",
    "zoo",
    "inference",
    "engines",
    "exporting",
    "evaluation",
    "training",
    "app",
    "cli",
)
# model.predict(...), which is fast if asked, and model.save_pretrained(...): the doorways from a noun to a verb, which
# open when called. What they take and return is named for type checkers.
DOORWAYS = {
    "models/base.py": {"hrnet_zoo.inference.predict"},
    "models/fcn.py": {"hrnet_zoo.zoo.model_folder", "hrnet_zoo.engines.optimize"},
}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield every module of ours that a file imports, and whether it does so for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    for_types = {id(node) for block in blocks for node in ast.walk(block)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            names = [node.module or ""]
            if node.module == "hrnet_zoo":
                names = [f"hrnet_zoo.{alias.name}" for alias in node.names if alias.name != "__version__"]
        elif isinstance(node, ast.Import):
            names = ["hrnet_zoo.__init__" if alias.name == "hrnet_zoo" else alias.name for alias in node.names]
        else:
            continue
        yield from ((name, id(node) in for_types) for name in names if name.split(".")[0] == "hrnet_zoo")


def test_the_package_is_the_house() -> None:
    found = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert found == {*HOUSE, "__init__.py", "__main__.py", "errors.py", "py.typed"}


def test_imports_run_one_way() -> None:
    wrong = []
    for room in HOUSE:
        allowed = {"errors", *HOUSE[: HOUSE.index(room) + 1]}
        if room == "cli":
            allowed.add("__init__")  # commands call the public names
        for path in (PACKAGE / room).rglob("*.py"):
            doors = DOORWAYS.get(path.relative_to(PACKAGE).as_posix())
            for name, for_types in imports(path):
                if name.split(".")[1] not in allowed and not (doors and (for_types or name in doors)):
                    wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert not wrong
    assert not list(imports(PACKAGE / "errors.py"))


def test_nothing_is_traced() -> None:
    """Tracing patches torch for all threads of the process, so that exports run in one of their own."""
    words = re.compile(r"\bfx\b|symbolic_trace|make_fx|jit\.trace|torch\.(export|onnx)\.export")
    traces = {path for path in PACKAGE.rglob("*.py") if words.search(path.read_text(encoding="utf-8"))}
    assert traces == {PACKAGE / "exporting" / "formats.py"}  # which worker.py alone imports: see its tests
