"""Which of our errors the tests make and read.

`pytest --raise-sites FILE` writes what a run saw, and `python -m tests.support.raise_sites FILE...` prints the places
in the package that raise an error whose message no test of those runs read, as "module:function, line".

A place is a `raise` of one of our errors (also through a function that makes it, or through a finding that becomes one)
and every call of an error's class. It is read where the message, or one of its four parts, is asked for by a test or
printed by the command line.
"""

import ast
import builtins
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType

import hrnet_zoo
from hrnet_zoo.errors import HRNetZooError

PACKAGE = Path(hrnet_zoo.__file__).parent
_PARTS = ("asked", "found", "done", "advice")

Site = tuple[str, int]  # path below the package, line


def sites() -> dict[Site, int]:
    """Find where the package raises or makes errors; each with the last line of it."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            made = isinstance(node, ast.Call) and {each.arg for each in node.keywords} >= {"asked", "found"}
            raised = isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and _ours(node.exc)
            if isinstance(node, ast.expr | ast.stmt) and (made or raised):
                found[path.relative_to(PACKAGE).as_posix(), node.lineno] = node.end_lineno or node.lineno
    return found


def _ours(call: ast.Call) -> bool:
    """Whether what is raised is neither Python's nor click's, nor for a caller within the package alone."""
    name = ast.unparse(call.func)
    return not (hasattr(builtins, name) or name.startswith("click.") or name == "TryAgainError")


class Recorder:
    """Notes the places where errors are made, and those whose message is read."""

    def __init__(self) -> None:
        self.read: set[Site] = set()
        self._known = sites()

    def start(self) -> None:
        """Watch from now on, for good."""

        def made(kind: type[HRNetZooError], *_: object, **__: object) -> HRNetZooError:
            error: HRNetZooError = Exception.__new__(kind)
            object.__setattr__(error, "_sites", self._sites(sys._getframe(1)))
            return error

        def shown(error: HRNetZooError) -> str:
            self._note(error)
            return plain(error)

        def part(error: HRNetZooError, name: str) -> object:
            if name in _PARTS and sys._getframe(1).f_code.co_filename.startswith(str(Path(__file__).parent)):
                self._note(error)
            return object.__getattribute__(error, name)

        plain = HRNetZooError.__str__
        HRNetZooError.__new__ = made  # type: ignore[method-assign, assignment]
        HRNetZooError.__str__ = shown  # type: ignore[method-assign]
        HRNetZooError.__getattribute__ = part  # type: ignore[method-assign, assignment]

    def write(self, report: Path) -> None:
        """Write the places whose messages were read."""
        report.write_text(json.dumps(sorted(self.read)), encoding="utf-8")

    def _sites(self, frame: FrameType | None) -> set[Site]:
        """Find the places from which an error is made, and the one of the finding that is being handled."""
        found = set()
        while frame:
            found |= self._at(frame.f_code.co_filename, frame.f_lineno)
            frame = frame.f_back
        handled = sys.exc_info()[1]
        trace: TracebackType | None = handled.__traceback__ if handled else None
        while trace:
            found |= self._at(trace.tb_frame.f_code.co_filename, trace.tb_lineno)
            trace = trace.tb_next
        return found

    def _at(self, file: str, line: int) -> set[Site]:
        path = Path(file)
        if not path.is_relative_to(PACKAGE):
            return set()
        name = path.relative_to(PACKAGE).as_posix()
        return {
            (name, first) for (module, first), last in self._known.items() if module == name and first <= line <= last
        }

    def _note(self, error: HRNetZooError) -> None:
        self.read |= error.__dict__.get("_sites", set())


def unread(reports: list[Path]) -> Iterator[str]:
    """Name the places of which no report tells, in the order of their modules."""
    read = {tuple(site) for report in reports for site in json.loads(report.read_text(encoding="utf-8"))}
    for module, line in sorted(sites()):
        if (module, line) not in read:
            text = (PACKAGE / module).read_text(encoding="utf-8")
            functions = [
                node
                for node in ast.walk(ast.parse(text))
                if isinstance(node, ast.FunctionDef) and node.lineno <= line <= (node.end_lineno or 0)
            ]
            yield f"{module}:{functions[-1].name if functions else ''}, line {line}"


if __name__ == "__main__":
    for place in unread([Path(name) for name in sys.argv[1:]]):
        sys.stdout.write(f"{place}\n")
