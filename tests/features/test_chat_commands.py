"""Slash commands and handles: what each does, for whom, and that nothing of it is said."""

from __future__ import annotations

import msgspec
import pytest

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.accounts import CreateAccount
from clawnet.core.calls.chat import CommandDone, CreateRoom, JoinRoom, ReadRoom, SetHandle
from clawnet.core.calls.fleet import Report
from clawnet.core.calls.grants import Grant
from clawnet.core.calls.reading import ReadHistory
from clawnet.core.calls.tasks import ListTasks, TaskInfo
from clawnet.core.errors import (
    BadRequest,
    Conflict,
    DedupeConflict,
    Forbidden,
    InvalidChannel,
    NotFound,
)
from clawnet.testing.hubs import HubRig
from tests.features.chatting import message, read, refused, say, texts

ALL_COMMANDS = (
    "help status who dispatch ask exec cancel tasks join leave invite topic handle".split()
)


async def told(rig: HubRig, caller: Caller, text: str, **named: object) -> CommandDone:
    """What a command did; it was not said."""
    sent = await say(rig, caller, text, **named)  # type: ignore[arg-type]
    assert (sent.id, sent.offset, sent.seq) == (None, None, None)
    assert sent.command is not None
    return sent.command


async def tasks(rig: HubRig, caller: Caller) -> list[TaskInfo]:
    return list((await rig.hub.call(ListTasks(), caller=caller)).tasks)


async def test_help_lists_all_and_an_unknown_one_is_answered_with_the_list(rig, ada):
    done = await told(rig, ada, "/help")
    assert [line.split(":")[0].split()[0] for line in done.text.split("\n")[:-1]] == [
        f"/{name}" for name in ALL_COMMANDS
    ]
    for text in ("/nope", "/ help", "/", "/etc/passwd is a file", "/HELPME\n"):
        error = await refused(rig, ada, message(text))
        assert isinstance(error, BadRequest)
        assert [usage.split()[0] for usage in error.facts["commands"]] == [
            f"/{name}" for name in ALL_COMMANDS
        ]
    assert (await told(rig, ada, "/HELP")).name == "help"
    assert await read(rig, ada, "global") == []


@pytest.mark.parametrize(
    "text", ["/dispatch", "/ask @bob", "/exec  ", "/cancel", "/join", "/invite", "/handle"]
)
async def test_a_command_without_what_it_needs_says_how_it_is_used(rig, ada, bob, text):
    error = await refused(rig, ada, message(text))
    assert isinstance(error, BadRequest)
    assert error.next.startswith(f"Write: {text.split()[0]} ")


async def test_work_is_given_where_one_may_and_once(rig, ada, bob, master):
    hub = rig.hub
    for text in ("/dispatch @bob build", "/ask @bob how?", "/exec @bob ls", "/status @bob"):
        assert isinstance(await refused(rig, ada, message(text)), Forbidden)
    assert isinstance(await refused(rig, ada, message("/ask @nobody how?")), NotFound)
    assert await tasks(rig, ada) == []
    await hub.call(Grant(account="ada", channel="agent.bob.tasks", verbs=["dispatch"]), caller=bob)
    await hub.call(CreateRoom(room="r"), caller=ada)
    done = await told(rig, ada, "/dispatch @Bob build it  now", room="r", dedupe_key="k")
    again = await told(rig, ada, "/dispatch @Bob build it  now", room="r", dedupe_key="k")
    assert done.task_ids == again.task_ids
    ask = await told(rig, ada, "/ask @bob how?", room="r")
    run = await told(rig, master, "/exec @bob\nls -l", to="bob")
    found = {task.task_id: task for task in await tasks(rig, bob)}
    assert set(found) == {*done.task_ids, *ask.task_ids, *run.task_ids}
    first = found[done.task_ids[0]]
    assert (first.kind, first.command, first.from_id, first.to, first.room) == (
        "openclaw",
        "build it  now",
        "ada",
        "bob",
        "room.r",
    )
    assert found[run.task_ids[0]].kind == "exec"
    # It is seen in the room's timeline, and the command is not.
    shown = await read(rig, ada, "r")
    assert first.correlation_id in {one.correlation_id for one in shown}
    assert await texts(rig, ada, "r") == []
    listed = await told(rig, ada, "/tasks")
    assert done.task_ids[0] in listed.text
    assert (await told(rig, ada, f"/cancel {done.task_ids[0]}")).text.endswith("is cancelled.")
    cy = await rig.account("cy")
    assert (await refused(rig, cy, message(f"/cancel {ask.task_ids[0]}"))).code in (
        "not_found",
        "forbidden",
    )
    assert (await told(rig, cy, "/tasks")).text == "No task is open."
    # Where one may not speak nothing is given either.
    assert isinstance(await refused(rig, cy, message("/ask @cy hi", room="r")), Forbidden)
    assert isinstance(await refused(rig, cy, message("/ask @cy hi", room="none")), Forbidden)
    assert await tasks(rig, cy) == []
    assert isinstance(await refused(rig, cy, message("x", room="r")), Forbidden)


async def test_status_goes_to_who_is_there_and_takes_work_of_the_caller(rig, ada, bob, master):
    hub = rig.hub
    await rig.account("cy")
    for caller in (ada, bob, await rig.caller("cy")):
        await hub.call(Report(capabilities=["openclaw"]), caller=caller)
    outlets = [rig.connect(caller, "public.lobby") for caller in (ada, bob, master)]
    done = await told(rig, master, "/status")
    assert sorted(task.to for task in await tasks(rig, master)) == ["ada", "bob"]
    assert len(done.task_ids) == 2
    await told(rig, bob, "/status")
    assert [task.to for task in await tasks(rig, bob) if task.from_id == "bob"] == ["bob"]
    assert len(outlets) == 3
    # Repeated under its key it is the same asking, whoever came online meanwhile.
    asked = await told(rig, master, "/status", dedupe_key="k")
    cy = await rig.caller("cy")
    outlets.append(rig.connect(cy, "public.lobby"))
    again = await told(rig, master, "/status", dedupe_key="k")
    assert again == asked
    error = await refused(rig, master, message("/ask @cy how?", dedupe_key="k"))
    assert isinstance(error, DedupeConflict)
    assert len((await told(rig, master, "/status")).task_ids) == 3


async def test_rooms_are_managed_by_commands(rig, ada, bob, master):
    done = await told(rig, ada, "/join #alpha now")
    assert done.text == "You are in alpha."
    assert (await told(rig, ada, "/join alpha")).text == "You were in alpha."
    await told(rig, ada, "/topic the  plan", room="alpha")
    await told(rig, ada, "/invite @bob", room="alpha")
    info = await rig.hub.call(ReadRoom(room="alpha"), caller=ada)
    assert info.topic == "the  plan"
    await told(rig, bob, "/join alpha")
    assert (await told(rig, bob, "/who", room="alpha")).text == "@ada (offline), @bob (offline)"
    assert (await told(rig, bob, "/leave", room="alpha")).text == "You left alpha."
    assert (await told(rig, ada, "/leave alpha")).text == "You left alpha."
    assert isinstance(await refused(rig, bob, message("/who", room="alpha")), Forbidden)
    for text in ("/topic x", "/leave", "/invite @bob"):
        assert isinstance(await refused(rig, ada, message(text)), BadRequest)
    assert isinstance(await refused(rig, ada, message("/who", to="dm.bob.boss")), Forbidden)
    assert isinstance(await refused(rig, ada, message("/join ../etc")), InvalidChannel)
    assert (await told(rig, ada, "/who")).text == "Nobody is online."
    rig.connect(bob, "public.lobby")
    assert (await told(rig, ada, "/who")).text == "@bob (online)"
    assert await texts(rig, ada, "global") == []


async def test_a_token_without_the_scope_gives_no_command(rig, ada):
    reading = await rig.caller("ada", scopes=["events:read"])
    for name in ALL_COMMANDS:
        assert isinstance(await refused(rig, reading, message(f"/{name} ada x")), Forbidden)
    writing = await rig.caller("ada", scopes=["events:read", "events:write"])
    for text in ("/dispatch @ada x", "/exec @ada x", "/handle new"):
        assert isinstance(await refused(rig, writing, message(text)), Forbidden)


async def test_handles_are_given_by_whom_they_belong_to_and_masters_and_it_is_recorded(
    rig, ada, bob, master
):
    hub = rig.hub
    done = await told(rig, ada, "/handle @Ada-One")
    assert done.text == "You are @Ada-One."
    for other in ("ada", "new"):
        error = await refused(rig, bob, SetHandle(agent_id=other, handle="x"))
        assert isinstance(error, Forbidden)
        # The same whether there is such an account or not.
        assert error.message.startswith("One gives oneself a handle")
    for taken in ("ada-one", "ADA-ONE", "ada"):
        error = await refused(rig, bob, SetHandle(agent_id="bob", handle=taken))
        assert isinstance(error, Conflict)
    again = await hub.call(SetHandle(agent_id="Ada", handle="Ada-One"), caller=ada)
    assert again.changed is False
    changed = await hub.call(SetHandle(agent_id="bob", handle="Robert"), caller=master)
    assert (changed.handle, changed.created, changed.changed) == ("Robert", False, True)
    made = await hub.call(SetHandle(agent_id="Neo", handle="The.One"), caller=master)
    assert (made.agent_id, made.handle, made.created) == ("neo", "The.One", True)
    error = await refused(rig, master, SetHandle(agent_id="trinity", handle="Robert"))
    assert isinstance(error, Conflict)
    assert isinstance(await refused(rig, master, SetHandle(agent_id="", handle="x")), BadRequest)
    page = await hub.call(ReadHistory(channel="system.accounts", limit=1000), caller=master)
    trail = [msgspec.json.decode(line) for line in page.body.split(b"\n")]
    updates = [one["data"] for one in trail if one["type"] == "account.updated"]
    assert [(one["by"], one["account"], one["handle"]) for one in updates] == [
        ("ada", "ada", "Ada-One"),
        ("boss", "bob", "Robert"),
    ]
    assert updates[0]["was"]["handle"] == "ada"
    # The message says it from now on, and what was said stays as it was.
    await say(rig, await rig.caller("ada"), "hi")
    assert (await read(rig, bob, "global"))[-1].from_handle == "Ada-One"
    await hub.call(CreateAccount(id="zed"), caller=HUB)
    await hub.call(JoinRoom(room="z"), caller=await rig.caller("zed"))
