"""What docs/fleet.md and the service's unit say, the program knows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click

from clawnet.cli.main import claw
from clawnet.sidecar.settings import is_secret

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "fleet.md").read_text()
UNIT = (ROOT / "deploy" / "systemd" / "clawnet-sidecar.service").read_text()


def command(words: list[str]) -> click.Command:
    """The command that words name. Raises if there is none."""
    found: click.Command = claw
    for word in words:
        if not isinstance(found, click.Group) or word.startswith("-"):
            break
        sub = found.get_command(click.Context(found), word)
        assert sub is not None, word
        found = sub
    return found


def test_every_command_and_flag_of_the_document_is_there() -> None:
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if "claw " in line]
    assert len(lines) >= 10
    for line in lines:
        words = shlex.split(line)
        while "=" in words[0]:
            del words[0]
        if words[0] != "claw":
            continue
        known = {option for one in command(words[1:]).params for option in one.opts}
        flags = {word for word in words[2:] if word.startswith("--")}
        assert flags <= known, line


def test_the_table_of_settings_is_the_commands_own() -> None:
    made = command(["sidecar"])
    options = [one for one in made.params if isinstance(one, click.Option)]
    flags = {option for one in options for option in one.opts if option.startswith("--")}
    table = TEXT.partition("## Settings")[2].partition("##")[0]
    told = set(re.findall(r"`(--[a-z-]+)`", table))
    assert flags - {"--config", "--json"} == told
    variables = set(re.findall(r"`([A-Z_]{5,})`", table))
    for one in options:
        names = [one.envvar] if isinstance(one.envvar, str) else list(one.envvar or ())
        assert set(names) <= variables, one.name
    # What is secret is kept from the processes of tasks.
    secrets = [name for name in variables if re.search("SECRET|TOKEN|KEY", name)]
    assert len(secrets) >= 5 and all(map(is_secret, secrets))


def test_the_unit_ends_it_in_order_and_runs_no_task_with_more_rights() -> None:
    lines = UNIT.splitlines()
    for needed in (
        "ExecStart=/opt/clawnet/bin/claw sidecar", "EnvironmentFile=/etc/clawnet/sidecar.env",
        "User=openclaw", "KillMode=mixed", "TimeoutStopSec=20s", "NoNewPrivileges=yes",
        "RestartPreventExitStatus=77 78", "Environment=XDG_STATE_HOME=/var/lib/clawnet-sidecar",
    ):  # fmt: skip
        assert needed in lines
