"""Style rules as tests: each says why it is there, and its exceptions stand in the open.

What ruff, mypy and import-linter can check is checked there. An exception list only shrinks: an
entry that is no longer needed fails the test.
"""

import ast
import importlib
import importlib.util
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src" / "clawnet"
LINES_MAX = 600

LONG_FILES: set[str] = set()
"""Files in src over LINES_MAX that wait to be split."""

VAGUE_NAMES = {"utils", "util", "helpers", "common", "manager", "base", "misc"}

MACHINE_PATHS: dict[str, str] = {}
"""Text that looks like a path of somebody's machine and is none: file → the text."""


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def python_files(*roots: Path) -> list[Path]:
    return sorted(path for root in roots for path in root.rglob("*.py"))


def committed_text() -> Iterator[tuple[str, str]]:
    """What a reader of the repository sees, without environments, caches and vendored files."""
    kinds = {"", ".cfg", ".html", ".js", ".json", ".lock", ".md", ".py", ".sh", ".sql", ".toml"}
    kinds |= {".service", ".css", ".svg", ".txt", ".yaml", ".yml"}
    names = "src tests docs benchmarks deploy examples .ci".split()
    trees = [ROOT / part for part in names]
    for path in sorted([*ROOT.iterdir(), *(path for tree in trees for path in tree.rglob("*"))]):
        skipped = {"node_modules", "__pycache__", "vendor", "build"} & set(path.parts)
        if path.is_file() and path.suffix in kinds and not skipped:
            yield name(path), path.read_text(encoding="utf-8")


SOURCES = python_files(SRC)


def test_there_are_sources_to_look_at() -> None:
    assert SRC / "__init__.py" in SOURCES


def test_files_are_short() -> None:
    """A long file owns more than one noun."""
    lines = {name(path): len(path.read_text().splitlines()) for path in SOURCES}
    assert {file for file, count in lines.items() if count > LINES_MAX} == LONG_FILES


def test_modules_are_named_for_a_noun() -> None:
    """A vague name says nothing about what belongs inside, so everything does."""
    paths = {path: path.relative_to(SRC).with_suffix("").parts for path in SOURCES}
    vague = {
        name(path): found
        for path, parts in paths.items()
        if (found := VAGUE_NAMES & {part.lower() for part in parts})
    }
    assert vague == {}


def test_modules_open_with_a_docstring() -> None:
    """It says what lives here and what does not."""
    parsed = {path: ast.parse(path.read_text()) for path in SOURCES}
    silent = [name(path) for path, module in parsed.items() if not ast.get_docstring(module)]
    assert silent == [], "a few lines on what lives here"


def test_a_caught_exception_of_any_kind_has_a_reason() -> None:
    """`except Exception` hides bugs; where it must stand, a comment there says why."""
    found = [f"{name(path)}:{number}" for path in SOURCES for number in unexplained(path)]
    assert found == [], "a comment on this line or the one above says why"


def unexplained(path: Path) -> list[int]:
    """The lines of a file that catch any exception and do not say why."""
    text = path.read_text()
    broad = [
        number
        for number, line in enumerate(text.splitlines(), start=1)
        if re.match(r"\s*except\b[^:]*\b(Base)?Exception\b", line)
    ]
    if not broad:
        return []
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = {token.start[0] for token in tokens if token.type == tokenize.COMMENT}
    return [number for number in broad if not {number, number - 1} & comments]


def test_error_codes_are_unique() -> None:
    """Codes are public API: a client tells errors apart by nothing else."""
    if importlib.util.find_spec("clawnet.core.errors") is None:
        pytest.skip("clawnet.core.errors does not exist yet")
    errors = importlib.import_module("clawnet.core.errors")
    classes = defaultdict(list)
    for kind in subclasses(errors.ClawError):
        if kind.__module__.startswith("clawnet."):
            classes[kind.code].append(kind.__name__)
    assert classes
    assert {code: names for code, names in classes.items() if len(names) > 1} == {}
    assert [code for code in classes if not re.fullmatch(r"[a-z][a-z0-9_]*", code)] == []


def subclasses(kind: Any) -> Iterator[Any]:
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


def test_tests_do_not_sleep() -> None:
    """A sleep is too short on a busy machine and too long on all others: use the fake clock.

    Only `tests/integration` may wait for real time. `asyncio.sleep(0)` is no wait: it gives the
    other tasks their turn.
    """
    found = [
        f"{name(path)}:{node.lineno}"
        for path in python_files(ROOT / "tests")
        if ROOT / "tests" / "integration" not in path.parents
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and is_sleep(node)
    ]
    assert found == []


def is_sleep(call: ast.Call) -> bool:
    called = ast.unparse(call.func)
    turn = called == "asyncio.sleep" and [ast.unparse(arg) for arg in call.args] == ["0"]
    return called in {"time.sleep", "asyncio.sleep", "anyio.sleep", "sleep"} and not turn


def test_no_file_names_a_path_of_one_machine() -> None:
    """It works nowhere else, and tells about the machine."""
    pattern = re.compile(r"(?<![\w.~/-])/(?:home|root|work|Users)/[\w.-]+[^\s\"'`)]*")
    found = {file: match[0] for file, text in committed_text() if (match := pattern.search(text))}
    assert found == MACHINE_PATHS


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.lock")), ids=name)
def test_locks_name_no_address(path: Path) -> None:
    """A lock pins what is installed by its hash; where it comes from is the user's choice."""
    text = path.read_text()
    assert "--hash=sha256:" in text
    assert re.findall(r"(?m)^.*(?:://|^\s*--(?:index|extra-index|find-links)).*$", text) == []


def test_npm_locks_name_no_address() -> None:
    """The same for npm (`.npmrc`: omit-lockfile-registry-resolved=true)."""
    texts = {file: text for file, text in committed_text() if file.endswith("package-lock.json")}
    assert [file for file, text in texts.items() if '"resolved": "http' in text] == []
