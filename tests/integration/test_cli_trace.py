"""claw trace and --traceparent: the program against a real hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.program import HubProcess, Program, running_hub

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    folder = tmp_path_factory.mktemp("trace")
    with running_hub(Program(folder / "home"), folder / "data") as started:
        yield started


@pytest.fixture
def claw(hub: HubProcess, tmp_path: Path) -> Any:
    program = Program(tmp_path / "home")
    at = ("--server", hub.url, "--token", hub.admin_token)

    def run(*arguments: str, code: int = 0, **named: Any) -> str:
        done = program.run(*arguments, *at, **named)
        assert done.returncode == code, done.stderr.decode()
        return (done.stdout if code == 0 else done.stderr).decode()

    return run


def test_the_program_publishes_under_a_trace_and_draws_it(claw: Any) -> None:
    def pub(*arguments: str, **named: Any) -> Any:
        return json.loads(claw("pub", "--json", *arguments, **named))

    first = pub("--traceparent", TRACEPARENT, "public.trace", "one")
    # The environment's own is taken, a flag counts more, and nonsense costs nothing.
    pub("public.trace", "two", env={"TRACEPARENT": TRACEPARENT})
    other = TRACEPARENT.replace("4", "5")
    pub("--traceparent", TRACEPARENT, "public.trace", "three", env={"TRACEPARENT": other})
    for nonsense in ("nonsense", "\udcff", "x" * 100_000):
        pub("public.trace", "four", env={"TRACEPARENT": nonsense})
    tree = claw("trace", TRACE_ID).splitlines()
    assert [line.split()[-1] for line in tree] == ["one", "two", "three"]
    assert all(" public.trace  x.message  admin  " in line for line in tree)
    whole = json.loads(claw("trace", "--json", first["id"]))
    assert [one["data"] for one in whole["events"]] == ["one", "two", "three"]
    printed = [json.loads(line) for line in claw("history", "public.trace").splitlines()]
    assert [one.get("traceparent") for one in printed] == [TRACEPARENT] * 3 + [None] * 3
    live = claw("sub", "public.trace", "--since", "all", "--count", "4").splitlines()
    assert [json.loads(line).get("traceparent") for line in live] == [TRACEPARENT] * 3 + [None]
    assert "traceparent" not in json.loads(live[3])


def test_an_answer_goes_on_with_the_trace_of_what_it_answers(claw: Any) -> None:
    def pub(*arguments: str, **named: Any) -> str:
        return str(json.loads(claw("pub", "--json", *arguments, **named))["id"])

    trace_id = "a" * 32
    asked = pub("--traceparent", TRACEPARENT.replace(TRACE_ID, trace_id), "public.asked", "q")
    reply = ("--reply-to", asked, "public.asked")
    pub(*reply, "inherits")
    pub(*reply, "inherits too", env={"TRACEPARENT": "nonsense"})
    pub("--outbox", *reply, "kept")
    pub("--traceparent", TRACEPARENT, *reply, "own")
    pub(*reply, "environment's", env={"TRACEPARENT": TRACEPARENT})
    printed = [json.loads(line) for line in claw("history", "public.asked").splitlines()]
    found = [one["traceparent"][3:35] for one in printed]
    assert found == [trace_id] * 4 + [TRACE_ID] * 2


@pytest.mark.parametrize("wrong", ["bogus", f"00-{'0' * 32}-00f067aa0ba902b7-01", "\udcff"])
def test_a_malformed_traceparent_that_was_given_is_refused(claw: Any, wrong: str) -> None:
    said = claw("pub", "--traceparent", wrong, "public.malformed", "x", code=2)
    assert "--traceparent is no W3C traceparent" in said and "nothing was published" in said
    assert claw("history", "public.malformed") == ""


def test_what_there_is_not_is_said_in_a_sentence(claw: Any) -> None:
    said = claw("trace", "evt_nothing", code=1)
    assert "There is no trace of 'evt_nothing' here." in said and "Traceback" not in said


def test_who_asked_traces_what_its_own_pub_just_printed(hub: HubProcess) -> None:
    asker, answerer = hub.account("tracy"), hub.account("toby")
    asked = json.loads(hub.claw("pub", "--json", "agent.toby.inbox", "Why?", token=asker))["id"]
    assert "Why?" in hub.claw("trace", asked, token=asker)
    hub.claw("pub", "--reply-to", asked, "agent.tracy.inbox", "So.", token=answerer)
    shown = hub.claw("trace", asked, token=asker)
    assert "Why?" in shown and "So." in shown and "gone" not in shown
