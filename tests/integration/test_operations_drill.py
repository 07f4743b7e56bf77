"""The drill of docs/operations.md, run as it stands."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from tests.cli.program import Program

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"


def drill() -> str:
    """The lines between the drill's marks."""
    found = re.search(
        r"<!-- drill:begin -->\s*```sh\n(.*?)```\s*<!-- drill:end -->", PAGE.read_text(), re.S
    )
    assert found is not None, "the page has lost its drill"
    return found[1]


def test_the_drill_brings_back_what_was_backed_up(tmp_path: Path) -> None:
    program = Program(tmp_path)
    programs = Path(sys.executable).parent
    process = subprocess.Popen(
        ["sh", "-e", "-c", drill()],
        env={
            **program.environment,
            "PATH": f"{programs}:{program.environment['PATH']}",
            "TMPDIR": str(tmp_path),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=100)
    finally:
        # A drill that failed half way has left its hub running.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == 0, err.decode()
    lines = [json.loads(line) for line in out.decode().splitlines() if line.startswith("{")]
    assert [line["payload"] for line in lines if "payload" in line] == ["before"]
    assert not list(tmp_path.glob("tmp.*"))
