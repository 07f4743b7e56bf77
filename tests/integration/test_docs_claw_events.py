"""The command lines of docs/claw-events.md, run as they stand against a hub of their own."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clawnet.cli.main import COMMANDS
from clawnet.doors.http.claw_events.routes import ROUTES
from tests.cli.program import Program, running_hub

PAGE = Path(__file__).parents[2] / "docs" / "claw-events.md"
DEFAULT_URL = "http://127.0.0.1:8080"
BLOCK = re.compile(r"<!-- run:begin -->\s*```sh\n(.*?)```\s*<!-- run:end -->", re.S)


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page uses curl")
def test_the_lines_of_the_page_work_as_they_stand(tmp_path: Path) -> None:
    blocks = BLOCK.findall(PAGE.read_text())
    assert len(blocks) >= 4
    script = "".join(blocks).replace(". .venv/bin/activate\n", "")
    assert script.count(DEFAULT_URL) >= 5
    program = Program(tmp_path / "home")
    with running_hub(program, tmp_path / "data", "--dev") as hub:
        programs = Path(sys.executable).parent
        done = subprocess.run(
            ["sh", "-e", "-c", script.replace(DEFAULT_URL, hub.url)],
            cwd=program.home,
            env={
                **program.environment,
                "PATH": f"{programs}:{program.environment['PATH']}",
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    out = done.stdout
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    payloads = [line["payload"] for line in lines if "payload" in line]
    assert payloads[:2] == [{"state": "working", "done": 3}, "for bob alone"]
    assert "not allowed any more" in out
    assert [f"alice likes {word}" in out for word in ("red", "green", "blue")] == [True] * 3
    assert "\n3\n" in out.replace(" ", "")
    assert "Air, every minute" in out and "refused, exit code 65" in out
    # What curl was answered: nothing but successes.
    answers = [line for line in lines if "ok" in line]
    assert len(answers) >= 10 and all(answer["ok"] is True for answer in answers)
    assert not [line for line in lines if "error" in line]


def test_every_route_of_claw_events_stands_on_the_page() -> None:
    text = PAGE.read_text()
    for path in ROUTES:
        last = path.removeprefix("/api/advertise")
        shown = last if path != last and last else path
        assert f"`{shown}" in text or f"`{path}" in text, path


def test_every_command_on_the_page_is_one_that_the_program_has() -> None:
    text = PAGE.read_text()
    found = re.findall(r"\bclaw(?:\.events)? (?:--\S+ \S+ )*([a-z][a-z-]+)", text)
    assert len(found) >= 30
    words = {"up", "and"} | COMMANDS.keys()
    prose = {"speak", "installs"}
    assert {word for word in found if word not in words} <= prose, set(found) - words
