"""The commands' table, their help, and what can be seen without a hub."""

import importlib
import json
import subprocess
import sys
from typing import Any

import click
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clawnet import __version__
from clawnet.cli import exits
from clawnet.cli.commands.pub import encode_data
from clawnet.cli.follow import place
from clawnet.cli.main import COMMANDS, claw, main
from clawnet.client.errors import HubUnreachable, UnexpectedAnswer
from clawnet.core.errors import ERRORS, BadRequest

GLOBAL = {"--config", "--server", "--token", "--json"}


def commands() -> list[tuple[str, click.Command]]:
    found = []
    for name, (module, attribute, _) in COMMANDS.items():
        command: Any = getattr(importlib.import_module(f"clawnet.cli.commands.{module}"), attribute)
        found.append((name, command))
        if isinstance(command, click.Group):
            found += [(f"{name} {key}", inner) for key, inner in command.commands.items()]
    return found


def test_every_command_takes_the_global_options() -> None:
    lacking = {
        name: missing
        for name, command in commands()
        if (missing := GLOBAL - {text for param in command.params for text in param.opts})
    }
    assert lacking == {}


def test_the_tables_help_is_the_commands_own() -> None:
    context = click.Context(claw)
    found = {}
    for name in COMMANDS:
        command = claw.get_command(context, name)
        found[name] = command and (command.name, command.short_help)
    assert found == {name: (name, COMMANDS[name][2]) for name in COMMANDS}


def test_every_error_has_an_exit_code() -> None:
    codes = {exits.exit_code(kind("x")) for kind in (*ERRORS, HubUnreachable, UnexpectedAnswer)}
    assert codes <= exits.MEANINGS.keys()


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("hello", '"hello"'),
        ('{"a": 1}', '{"a": 1}'),
        ("1.0", "1.0"),
        ("12345678901234567890123", "12345678901234567890123"),
        ("NaN", '"NaN"'),
        ("-Infinity", '"-Infinity"'),
        ("", '""'),
        ("🦞", '"🦞"'),
        ("a\x00b", '"a\\u0000b"'),
        ("true", "true"),
        ('"quoted"', '"quoted"'),
        ("'", '"\'"'),
        ("1" * 5_000, "1" * 5_000),
        ("[" * 100_000 + "]" * 100_000, "[" * 100_000 + "]" * 100_000),
    ],
    ids=lambda text: text[:20],
)
def test_json_is_published_as_it_is_and_all_else_as_text(text: str, data: str) -> None:
    assert encode_data(text).decode() == data


@given(st.text(alphabet=st.characters(codec="utf-8")))
@example("NaN")
def test_whatever_is_published_is_json(text: str) -> None:
    value = json.loads(encode_data(text))
    try:
        expected = json.loads(text, parse_constant=lambda name: text)
    except ValueError:
        expected = text
    assert value == expected


def test_an_offset_is_one_for_each_channel() -> None:
    assert place("5", ("public.a", "global")) == {"public.a": 5, "public.lobby": 5}
    assert place("10m", ("public.>",)) == "10m"
    with pytest.raises(BadRequest):
        place("5", ("public.*",))


def test_publishing_imports_neither_asyncio_nor_msgspec() -> None:
    """Each costs a third of what `claw pub` may take."""
    code = (
        "import sys, clawnet.cli.main as m; m.main(['pub','-s','http://127.0.0.1:1','c','x']);"
        "print([n for n in ('asyncio','msgspec','httpx','websockets','ssl') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("[]", "['ssl']")


@pytest.mark.parametrize(
    "words",
    [
        ["login", "--user", "a"],
        ["whoami"],
        ["grant", "bob", "plans"],
        ["request", "agent.bob.plans", "please"],
        ["advertise", "list"],
        ["instruction-prompt"],
        ["key", "list"],
    ],
    ids="-".join,
)
def test_a_short_command_imports_neither_asyncio_nor_an_http_library(words: list[str]) -> None:
    code = (
        f"import sys, clawnet.cli.main as m; m.main(['-s','http://127.0.0.1:1',*{words!r}]);"
        "names = ('asyncio','httpx','websockets','jsonschema_rs','starlette','uvicorn');"
        "print('\\n', [n for n in names if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].strip() == "[]", done.stdout


@pytest.mark.parametrize("tail", ["--json", "-t secret", "-s http://127.0.0.1:1"])
def test_options_behind_a_longer_message_are_refused(
    tail: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # Port 1 is never asked: what was meant is not known, so nothing is published.
    at = ["-s", "http://127.0.0.1:1"]
    assert main([*at, "pub", "public.lobby", "hi", "there", *tail.split()]) == 2
    said = capsys.readouterr().err
    assert "nothing was published" in " ".join(said.split()) and "--" in said


def test_the_version_is_the_programs_own_and_not_the_installations() -> None:
    text = (
        "import importlib.metadata as m; m.version = None; m.distribution = None\n"
        "from clawnet.cli.main import main; main(['--version'])"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, check=False)
    assert done.stdout.decode() == f"claw, version {__version__}\n", done.stderr
