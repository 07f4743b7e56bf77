"""The programs in examples/ and every piece of code in docs/client.md, run against a real hub."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clawnet.client import Client
from tests.cli.program import HubProcess, Program, finish, read_line, running_hub

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
DOCUMENT = ROOT / "docs" / "client.md"
LINES_MAX = 40


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    """Of each test alone: examples print offsets, and read what is on their channels."""
    with running_hub(Program(tmp_path / "home"), tmp_path / "data", "--engine", "memory") as hub:
        yield hub


@pytest.fixture
def token(hub: HubProcess) -> str:
    return hub.account("alice")


@pytest.fixture(scope="module")
def shared_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """Of the document's pieces, which say nothing of what else is there."""
    folder = tmp_path_factory.mktemp("hub")
    with running_hub(Program(folder / "home"), folder / "data", "--engine", "memory") as hub:
        yield hub


@pytest.fixture(scope="module")
def shared_token(shared_hub: HubProcess) -> str:
    return shared_hub.account("alice")


def start(name: str, hub: HubProcess, token: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", ROOT / "examples" / name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**hub.program.environment, **hub.environment(token)},
    )


def run(name: str, hub: HubProcess, token: str) -> str:
    """Run an example to its end, which has to be a good one; what it printed."""
    code, out, err = finish(start(name, hub, token))
    assert (code, err) == (0, ""), (name, err)
    return out


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_small_and_says_how_to_run_it(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LINES_MAX
    assert f"python examples/{path.name}" in (ast.get_docstring(ast.parse(text)) or "")
    assert "argparse" not in text
    assert f"examples/{path.name}" in DOCUMENT.read_text()


def test_hello(hub: HubProcess, token: str) -> None:
    assert run("hello.py", hub, token) == "published at offset 1\nalice: hello\n"


def test_ask(hub: HubProcess, token: str) -> None:
    # What an earlier run asked is another's question by then.
    for _ in range(2):
        assert run("ask.py", hub, token) == "the answer is 144\n"


def test_sync_script(hub: HubProcess, token: str) -> None:
    assert run("sync_script.py", hub, token).splitlines() == [
        "I am alice",
        "newest first: [2, 1, 0]",
        "followed from offset 1",
        "offset 2: 1",
        "offset 3: 2",
    ]


def test_a_worker_that_is_killed_goes_on_where_it_was(hub: HubProcess, token: str) -> None:
    hub.claw("pub", "public.numbers", "1", token=token)
    worker = start("worker.py", hub, token)
    assert read_line(worker) == "total 1\n"
    hub.claw("pub", "public.numbers", "2", token=token)
    assert read_line(worker) == "total 3\n"
    # The acknowledgement of 2 may or may not have been sent; 1 was answered before 2 came.
    worker.kill()
    finish(worker)
    hub.claw("pub", "public.numbers", "4", token=token)
    # What was on its way to the one that was killed is delivered again when its time is up;
    # this hub's consumer waits 30 s for that, so the test looks at what is new.
    worker = start("worker.py", hub, token)
    assert read_line(worker) in ("total 4\n", "total 2\n")
    hub.claw("pub", "public.numbers", "stop", token=token)
    code, out, err = finish(worker)
    assert (code, err) == (0, ""), err
    assert "total 1\n" not in out


def test_offline(tmp_path: Path) -> None:
    with running_hub(Program(tmp_path / "home"), tmp_path / "data") as hub:
        token = hub.account("alice")
        hub.kill()
        out = run("offline.py", hub, token).splitlines()
        assert out == ["kept as 1, on this machine's disk", "1 wait for the hub"]
        hub.start()
        out = run("offline.py", hub, token).splitlines()
        assert out == ["kept as 2, on this machine's disk", "the hub has everything"]
        history = hub.claw("history", "public.readings", token=token)
        assert len(history.splitlines()) == 2


# --- the document ----------------------------------------------------------------------


def blocks(language: str) -> list[Any]:
    """The pieces of code, with the line they stand in."""
    found = []
    for piece in re.finditer(rf"(?ms)^```{language}\n(.*?)^```$", DOCUMENT.read_text()):
        line = DOCUMENT.read_text().count("\n", 0, piece.start()) + 2
        found.append(pytest.param(piece[1], line, id=f"line {line}"))
    return found


@pytest.mark.parametrize(("code", "line"), blocks("python"))
async def test_the_code_of_the_document_runs(
    code: str,
    line: int,
    shared_hub: HubProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shared_token: str,
) -> None:
    """With what the document says is there: `url`, `token`, and `client`, which is open."""
    hub, token = shared_hub, shared_token
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("CLAWNET_SERVER", hub.url)
    monkeypatch.setenv("CLAWNET_TOKEN", token)
    # Lines as in the document, so that a failure names the right one.
    source = "\n" * (line - 1) + code
    compiled = compile(source, str(DOCUMENT), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    async with asyncio.timeout(30), Client(hub.url, token, outbox=True) as client:
        given: dict[str, Any] = {"url": hub.url, "token": token, "client": client}
        if compiled.co_flags & inspect.CO_COROUTINE:
            await eval(compiled, given)
        else:
            await asyncio.to_thread(eval, compiled, given)


def test_the_commands_of_the_document_exist() -> None:
    from clawnet.cli.main import COMMANDS

    text = "\n".join(param.values[0] for param in blocks("sh"))
    commands = re.findall(r"(?m)^claw (\S+)", text)
    assert commands
    assert set(commands) <= COMMANDS.keys()
