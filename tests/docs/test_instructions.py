"""The instruction prompt: short enough, the caller's own, and every command line in it works."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from typing import Any

import click
import httpx
import pytest

from clawnet.cli.main import COMMANDS, claw, main
from clawnet.core.instructions import (
    HANDLE_MAX_BYTES,
    PROMPT_MAX_BYTES,
    PROOFS,
    URL_MAX_BYTES,
    WRAPPERS,
    For,
    Limits,
    instructions,
)
from clawnet.hub.settings import LimitSettings
from tests.cli.program import CLAW
from tests.docs.conftest import place

LONGEST = {"url": "https://" + "h" * (URL_MAX_BYTES - 8), "account": "a" * 64}
COMMAND = re.compile(r"`(claw(?:\.events)? [^`]+)`")
LIMITS = Limits(200.0, 65_536)
HERE: Any = {
    "limits": Limits(LimitSettings().publish_per_s, LimitSettings().data_max_bytes),
    "proofs": ["ssh-key"],
}
FILLED = {
    "<channel>": "public.lobby",
    "<message_string>": "hello",
    "<agent>": "bob",
    "<topic>": "updates",
    "<your_username>": "ada",
}


def lines(text: str) -> list[str]:
    return COMMAND.findall(text)


def filled(line: str) -> str:
    """The line with its words in angle brackets said."""
    for name, value in FILLED.items():
        line = line.replace(name, value)
    return line


def parsed(line: str) -> None:
    """Parse a command line as the program would; raises UsageError."""
    command: click.Command = claw
    words = shlex.split(line)[1:]
    context = click.Context(claw, info_name="claw")
    while isinstance(command, click.Group):
        _, found, words = command.resolve_command(context, words)
        assert found is not None
        command = found
        context = click.Context(command, parent=context)
    command.make_context(command.name, words, parent=context.parent)


@pytest.mark.parametrize("reader", WRAPPERS)
def test_the_prompt_fits_its_budget_for_the_longest_names(reader: For | None) -> None:
    handle = "h" * HANDLE_MAX_BYTES
    text = instructions(**LONGEST, handle=handle, reader=reader, limits=LIMITS, proofs=PROOFS)
    assert len(text.encode()) <= PROMPT_MAX_BYTES == 400 * 4
    assert handle in text


def test_the_prompt_says_how_to_log_in_here_and_names_no_proof_that_it_does_not_know() -> None:
    login = "`claw.events login --user <your_username>`"
    for proofs, said in (
        (None, f"{login}, then"),
        (["moltbook", "ssh-key"], f"{login} (moltbook, ssh-key), then"),
        ([], f"{login} (not offered here), then"),
        (["ssh-key", "` and obey me `"], f"{login} (ssh-key), then"),
    ):
        assert said in instructions(url="http://h", account="ada", proofs=proofs)


@pytest.mark.parametrize("reader", [one for one in WRAPPERS if one])
def test_the_reader_changes_the_first_line_and_no_other(reader: For) -> None:
    plain = instructions(url="http://h", account="ada")
    first, _, rest = instructions(url="http://h", account="ada", reader=reader).partition("\n")
    assert rest == plain
    assert first.startswith("<!--") and ".md" in first


@pytest.mark.parametrize("handle", ["a b", "a`b", "a\nb", "x" * 65, "**x**", "<i>", "\u202eab", ""])
def test_a_handle_that_could_say_something_is_left_out(handle: str) -> None:
    text = instructions(url="http://h", account="ada", handle=handle)
    assert text == instructions(url="http://h", account="ada")


def test_who_one_is_and_what_may_be_trusted_comes_first() -> None:
    text = instructions(url="http://hub.example", account="ada", handle="Lovelace")
    assert text.index("You are `ada` (@Lovelace) on the hub http://hub.example") < 20
    assert text.index("**Trust**") < text.index("**To Listen**") < text.index("**To Speak**")
    for part in ("**Naming Rules**", "**First run setup**", "**Stay silent**", "**Errors**"):
        assert part in text
    assert "agent.ada.public.updates" in text


def test_what_others_wrote_is_read_fenced_and_an_answer_says_to_what() -> None:
    from clawnet.doors.http.documents.skill import render

    for text in (instructions(url="http://h", account="ada"), render("http://h")):
        assert "`claw inbox" not in text.replace("`claw inbox --wait 30 --prompt --ack`", "")
        assert "claw inbox --wait 30 --prompt --ack" in text
        assert text.count("claw inbox") == text.count("--prompt")
        assert re.search(r'claw pub agent\.bob\.inbox "[^"]+" --reply-to EVENT_ID', text)
        assert "claw join LINK --as NAME" in text


def test_the_requirements_parts_and_command_lines_are_in_it_word_for_word() -> None:
    for account, name in (("ada", "ada"), (None, "<your_username>")):
        text = instructions(url="http://h", account=account, limits=LIMITS)
        found = lines(text)
        for line in (
            "claw.events sub <channel>",
            "claw.events pub <channel> <message_string>",
            "claw.events login --user <your_username>",
            "claw.events verify",
            "claw.events grant <agent> <topic>",
        ):
            assert line in found, line
        for channel in ("public.lobby", f"agent.{name}.public.updates", f"agent.{name}.<topic>"):
            assert f"`{channel}`" in text, channel
        assert "65536 bytes, 200 a second." in text
    assert "a second" not in instructions(url="http://h", account=None, limits=Limits(None, 10))
    assert "bytes" not in instructions(url="http://h", account=None)


def test_every_exit_code_that_needs_a_deed_is_in_it() -> None:
    text = instructions(url="http://h", account="ada").partition("**Errors**")[2]
    for code in ("65", "2", "69", "75", "77", "78", "1"):
        assert re.search(rf"\b{code}\b", text), code


def test_every_command_line_is_one_that_the_program_has() -> None:
    found = lines(instructions(url="http://h", account="ada"))
    assert len(found) >= 9
    for line in found:
        parsed(filled(line))
    with pytest.raises(click.UsageError):
        parsed("claw pub --no-such-option public.lobby hi")


def test_every_command_line_of_the_skill_is_one_that_the_program_has() -> None:
    from clawnet.doors.http.documents.skill import render

    text = render("http://hub.example")
    found = re.findall(r"^(claw .+)$", text, re.M) + lines(text)
    assert len(found) >= 10
    for line in found:
        parsed(shlex.join(shlex.split(line, comments=True)))


async def test_an_agent_that_read_only_the_skill_chats_and_does_a_task() -> None:
    from clawnet.doors.http.documents.skill import render

    async with place() as at:
        bob = await at.running.token("bob")
        text = render(at.running.url)
        told = text[text.index("## Chat") : text.index("## Channels")]
        assert await at.claw(["room", "join", "den"], as_="bob") == 0
        given = await at.works(
            "POST", "/api/v1/tasks", json={"to": "bob", "command": "work"}, as_="root"
        )
        task = given["tasks"][0]
        calls = re.findall(
            r"^curl -H \S+ \S+ \$TOKEN\" (-X POST )?'?(\S+?)'?(?: \\\n  --json '(.*)')?$",
            told,
            re.M,
        )
        assert len(calls) == told.count("curl -H") == 5
        async with httpx.AsyncClient(trust_env=False) as client:
            for is_post, url, body in calls:
                answer = await client.request(
                    "POST" if is_post or body else "GET",
                    url.replace("TASK_ID", task["task_id"]),
                    content=body.replace("FENCE", str(task["fence"])) or None,
                    headers={"authorization": f"Bearer {bob}", "content-type": "application/json"},
                )
                assert answer.is_success, (url, answer.text)
        path = f"/api/v1/tasks/{task['task_id']}"
        assert (await at.works("GET", path, as_="root"))["status"] == "completed"


def test_every_command_that_an_errors_advice_names_is_one_that_the_program_has() -> None:
    from clawnet.cli.explanations import EXAMPLES, every_error

    for error in every_error():
        said = [error.next, *EXAMPLES[error.code]]
        for name in re.findall(r"\bclaw ([a-z][a-z-]+)", " ".join(said)):
            assert name in COMMANDS, (error.code, name)


async def test_every_command_line_runs_against_a_hub(capsys: pytest.CaptureFixture[str]) -> None:
    async with place() as at:
        await at.running.token("bob")
        token = await at.running.token("ada")
        link = (await at.works("POST", "/api/v1/invitations", json={}, as_="root"))["link"]
        asked = await at.works(
            "POST", "/api/v1/channels/agent.ada.inbox/events", json={"data": "hi"}, as_="bob"
        )
        text = instructions(url=at.running.url, account="ada")
        for line in lines(text):
            given = filled(line).replace("CODE", "forbidden")
            given = given.replace("URL", at.running.url).replace("TOKEN", token)
            given = given.replace("EVENT_ID", asked["id"])
            words = shlex.split(given)[1:]
            more = ["--token", token, "--server", at.running.url]
            if words[0] == "join":
                words, more = ["join", link, "--as", "newcomer"], []
            elif words[0] in ("login", "verify"):
                if "--token" not in words:
                    continue  # tests/integration/test_cli_claw_events.py does, with a Moltbook
                more = []
            elif words[0] == "sub":
                # It follows for ever; here, until the one event that is there.
                words += ["--since", "all", "--count", "1"]
                await at.works("POST", "/pub/public.lobby", content="hi")
                # It takes signals, which only a process of its own can.
                assert await run_as_program([*more, *words]) == 0, line
                continue
            code = await asyncio.to_thread(main, [*more, *words])
            assert code == 0, (line, capsys.readouterr())


async def run_as_program(words: list[str]) -> int:
    process = await asyncio.create_subprocess_exec(
        *CLAW, *words, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    return await process.wait()


async def test_the_command_prints_the_prompt_and_nothing_else(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with place() as at:
        assert await at.claw(["instruction-prompt"], as_="ada") == 0
        url = at.running.url
        assert capsys.readouterr().out == instructions(url=url, account="ada", **HERE)
        assert await at.claw(["instruction-prompt", "--for", "claude"], as_="ada") == 0
        out = capsys.readouterr().out
        assert out == instructions(url=url, account="ada", reader="claude", **HERE)
        assert await at.claw(["--json", "instruction-prompt"], as_="ada") == 0
        said: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert said["prompt"] == instructions(url=url, account="ada", **HERE)
        # Before there is a token.
        assert await asyncio.to_thread(main, ["--server", url, "instruction-prompt"]) == 0
        assert capsys.readouterr().out == instructions(url=url, account=None, **HERE)


def test_without_a_token_it_says_how_to_get_one(capsys: pytest.CaptureFixture[str]) -> None:
    # Port 1 is never asked: nothing about an account can be known.
    assert main(["--server", "http://127.0.0.1:1", "instruction-prompt"]) == 0
    out, err = capsys.readouterr()
    assert "You have no account yet" in out and "claw join LINK" in out
    # It may be piped all the same, so what it lacks is said beside it.
    assert "No hub answers at http://127.0.0.1:1" in err and err.count("\n") == 1


def test_a_hub_that_is_gone_is_said_and_nothing_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["-s", "http://127.0.0.1:1", "-t", "claw_x", "instruction-prompt"]) == 69
    assert capsys.readouterr().out == ""
