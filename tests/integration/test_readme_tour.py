"""The README's one-minute tour, run as it stands, against a hub of its own."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.program import Program, running_hub

README = Path(__file__).parents[2] / "README.md"
DEFAULT_URL = "http://127.0.0.1:8080"


def tour() -> str:
    """The lines between the README's tour marks."""
    text = README.read_text()
    found = re.search(r"<!-- tour:begin -->\s*```sh\n(.*?)```\s*<!-- tour:end -->", text, re.S)
    assert found is not None, "the README has lost its tour"
    return found[1]


@pytest.mark.skipif(shutil.which("curl") is None, reason="the tour uses curl")
def test_the_tour_of_the_readme_works_as_it_stands(tmp_path: Path) -> None:
    program = Program(tmp_path)
    folder = tmp_path / "share" / "clawnet"
    with running_hub(program, folder) as hub:
        # The tour is for the default address and an activated .venv of the clone.
        script = tour().replace(DEFAULT_URL, hub.url).replace(". .venv/bin/activate\n", "")
        programs = Path(sys.executable).parent
        environment = {
            **program.environment,
            "PATH": f"{programs}:{program.environment['PATH']}",
            "CLAWNET_SERVER": hub.url,
        }
        done = subprocess.run(
            ["sh", "-e", "-c", script],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    payloads = [line["payload"] for line in lines if "payload" in line]
    assert payloads == ["Hello world", {"step": 1, "do": "read the issue"}]
    # What fits the schema was published, and each event is handed to a command.
    assert "alpha plans {" in done.stdout and 'alpha plans {"step": 2}' in done.stdout
    # What curl published is acknowledged, and what curl reads is the tour's first message.
    answers = [line for line in lines if "deduped" in line]
    assert [answer["deduped"] for answer in answers] == [False]
    assert "Hello world" in [line.get("data") for line in lines]
    # Who came by the link asked, and what it asked is shown as data of its sender.
    assert "can you look at this?" in done.stdout
    assert "gamma" in done.stdout.rpartition("can you look at this?")[0].rpartition("\n")[2]
    # In the den beta is heard, and the task that alpha gave it there waits for it.
    assert "said on room.den at offset" in done.stdout and " beta: hello alpha" in done.stdout
    given = re.search(r"task (task_\w+) for beta is (queued|submitted)", done.stdout)
    assert given is not None
    assert re.search(rf"^{given[1]} .* alpha +beta +openclaw +say what you see", done.stdout, re.M)
