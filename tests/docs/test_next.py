"""The advice of every error leads out of the state that causes it.

Each scenario brings a state about through a real door, meets the error, does what its `next`
says, and shows that the state is left: the same request now succeeds or, where the request itself
was wrong, the corrected one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from clawnet.cli.explanations import every_error
from clawnet.client import Client
from clawnet.client.address import parse_address
from clawnet.client.backoff import Backoff
from clawnet.client.http import HubHttp
from clawnet.client.outbox import Outbox
from clawnet.core.errors import ClawError, OutboxFull
from clawnet.doors.server import ServerSettings
from clawnet.engines.memory import MemoryEngine
from clawnet.features import FeatureSettings
from clawnet.features.deadlines import DeadlinesFeature
from clawnet.features.identity.settings import IdentitySettings
from clawnet.hub.interceptors import Deny, Interceptor, Proposed
from clawnet.hub.settings import HubSettings, LimitSettings
from clawnet.testing.clocks import FakeClock, FakeRandomness
from clawnet.testing.hubs import FaultyEngine
from clawnet.testing.moltbook import KEY as MOLTBOOK_KEY
from clawnet.testing.moltbook import FakeMoltbook, fake_moltbook
from tests.cli.program import Program
from tests.cli.program import running_hub as running_program
from tests.docs.conftest import Met, Place, place

LOBBY = "/api/v1/channels/public.lobby/events"

Scenario = Callable[[], Awaitable[None]]
SCENARIOS: dict[str, Scenario] = {}
PROGRAM_SCENARIOS: dict[str, Callable[[Path], None]] = {}
EXCUSES = {"internal": "A defect has no way out that can be known before it is found."}
LEADS_OUT_MIN = 0.95


def scenario(run: Scenario) -> Scenario:
    """Register a scenario by its name, which is the code."""
    SCENARIOS[run.__name__] = run
    return run


def program(run: Callable[[Path], None]) -> Callable[[Path], None]:
    """The same, for what only the real program meets."""
    PROGRAM_SCENARIOS[run.__name__] = run
    return run


@pytest.mark.parametrize("code", SCENARIOS)
async def test_doing_what_next_says_leads_out(code: str) -> None:
    await SCENARIOS[code]()


@pytest.mark.parametrize("code", PROGRAM_SCENARIOS)
def test_doing_what_next_says_leads_out_of_the_programs_errors(code: str, tmp_path: Path) -> None:
    PROGRAM_SCENARIOS[code](tmp_path)


def test_nearly_every_error_has_a_way_out_that_is_tried() -> None:
    codes = {error.code for error in every_error()}
    tried = SCENARIOS.keys() | PROGRAM_SCENARIOS.keys()
    assert tried <= codes, "a scenario of an error that is gone"
    assert not tried & EXCUSES.keys()
    assert codes - tried == EXCUSES.keys(), "an error has neither a scenario nor an excuse"
    assert len(tried) / len(codes) >= LEADS_OUT_MIN


# --- a request that has to be corrected -------------------------------------


@scenario
async def bad_request() -> None:
    async with place() as at:
        met = await at.meets("bad_request", "GET", "/api/v1/channels?limit=0")
        met.advises("limit must be 1 to 1000")
        await at.works("GET", "/api/v1/channels?limit=1")


@scenario
async def invalid_channel() -> None:
    async with place() as at:
        met = await at.meets(
            "invalid_channel",
            "POST",
            LOBBY.replace("public.lobby", "public..lobby"),
            json={"data": 1},
        )
        met.advises("lower-case segments")
        await at.works("POST", LOBBY, json={"data": 1})


@scenario
async def invalid_data() -> None:
    async with place() as at:
        how = {"headers": {"Content-Type": "application/json"}}
        met = await at.meets("invalid_data", "POST", LOBBY, content='{"data":1e999}', **how)
        met.advises("numbers inside the range of a double")
        await at.works("POST", LOBBY, content='{"data":1e99}', **how)


@scenario
async def invalid_type() -> None:
    async with place() as at:
        met = await at.meets("invalid_type", "POST", LOBBY, json={"data": 1, "type": "done"})
        met.advises("below x.")
        await at.works("POST", LOBBY, json={"data": 1, "type": "x.done"})


@scenario
async def dedupe_conflict() -> None:
    async with place() as at:
        await at.works("POST", LOBBY, json={"data": 1, "dedupe_key": "k"})
        met = await at.meets("dedupe_conflict", "POST", LOBBY, json={"data": 2, "dedupe_key": "k"})
        met.advises("Use a new key")
        await at.works("POST", LOBBY, json={"data": 2, "dedupe_key": "k-2"})


@scenario
async def payload_too_large() -> None:
    async with place() as at:
        met = await at.meets("payload_too_large", "POST", LOBBY, json={"data": "x" * 100_000})
        met.advises("publish a reference")
        await at.works("POST", LOBBY, json={"data": "https://files.example/x"})


@scenario
async def unsupported_media_type() -> None:
    async with place() as at:
        how: dict[str, Any] = {"content": '{"data":1}'}
        met = await at.meets("unsupported_media_type", "POST", LOBBY, **how)
        met.advises("Content-Type: application/json")
        met.advises("POST /pub/{channel}")
        await at.works("POST", LOBBY, headers={"Content-Type": "application/json"}, **how)
        await at.works("POST", "/pub/public.lobby", **how)


@scenario
async def method_not_allowed() -> None:
    async with place() as at:
        met = await at.meets("method_not_allowed", "PUT", "/api/v1/channels")
        met.advises("Allow header")
        allowed = [name for name in met.headers["allow"].split(", ") if name != "OPTIONS"]
        for method in allowed:
            await at.works(method, "/api/v1/channels")


@scenario
async def headers_too_large() -> None:
    async with place() as at:
        met = await at.meets("headers_too_large", "GET", "/version", headers={"X-A": "a" * 40_000})
        met.advises("32 KiB")
        await at.works("GET", "/version", headers={"X-A": "a" * 1_000})


@scenario
async def conflict() -> None:
    async with place() as at:
        path = "/api/v1/accounts"
        await at.works("POST", path, json={"id": "bob"}, as_="root")
        met = await at.meets("conflict", "POST", path, json={"id": "bob"}, as_="root")
        met.advises("hoose another")
        await at.works("GET", f"{path}/bob", as_="root")
        await at.works("POST", path, json={"id": "bob-2"}, as_="root")


@scenario
async def refused() -> None:
    async def only_short(proposed: Proposed) -> Deny | None:
        return Deny("Texts have 5 characters at most.") if len(proposed.data) > 7 else None

    async with place() as at:
        at.running.hub.interceptors.add(
            Interceptor(name="short", channels=("public.>",), intercept=only_short)
        )
        met = await at.meets("refused", "POST", LOBBY, json={"data": "too long a text"})
        met.advises("Texts have 5 characters at most.")
        met.advises("Change the event as the reason says")
        await at.works("POST", LOBBY, json={"data": "short"})


# --- rights -----------------------------------------------------------------


@scenario
async def unauthenticated() -> None:
    async with place() as at:
        await at.running.token("alice")
        met = await at.meets("unauthenticated", "POST", LOBBY, json={"data": 1}, as_=None)
        command = met.command("claw token create --account YOU", YOU="alice")
        assert await at.claw(command, as_="root") == 0
        made = await at.works("POST", "/api/v1/tokens", json={"account": "alice"}, as_="root")
        login = met.command("claw login --token TOKEN", TOKEN=made["token"])
        assert await asyncio.to_thread(_claw, [*login, "--server", at.running.url]) == 0
        # The token is kept for this hub: no command needs it any more.
        words = ["--server", at.running.url, "pub", "public.lobby", "hi"]
        assert await asyncio.to_thread(_claw, words) == 0


@scenario
async def forbidden() -> None:
    async with place() as at:
        await at.running.token("bob")
        path = "/api/v1/channels/agent.bob.updates/events"
        met = await at.meets("forbidden", "GET", path)
        words = met.command("claw grant YOU CHANNEL", YOU="alice", CHANNEL="agent.bob.updates")
        assert await at.claw(words, as_="bob") == 0
        await at.works("GET", path)
        met = await at.meets("forbidden", "POST", path, json={"data": 1})
        met.advises("agent.alice.<topic>")
        await at.works("POST", path.replace("bob", "alice"), json={"data": 1})
        inbox = "/api/v1/channels/agent.bob.inbox/events"
        assert await at.claw([*met.command("claw pub agent.bob.inbox"), "hi"], as_="alice") == 0
        # Nobody can be granted an inbox, so the advice is another.
        met = await at.meets("forbidden", "GET", inbox)
        assert "grant" not in met.next
        assert await at.claw(met.command("claw inbox"), as_="alice") == 0
        met = await at.meets("forbidden", "POST", inbox.replace("bob", "bbo"), json={"data": 1})
        assert await at.claw(met.command("claw account list"), as_="alice") == 0
        assert await at.claw(["block", "alice"], as_="bob") == 0
        met = await at.meets("forbidden", "POST", inbox, json={"data": 1})
        assert "grant" not in met.next and "Do not repeat it" in met.next
        assert await at.claw(met.command("claw unblock alice"), as_="bob") == 0
        await at.works("POST", inbox, json={"data": 1})


@scenario
async def invitation_invalid() -> None:
    async with place() as at:

        async def link() -> str:
            made = await at.works("POST", "/api/v1/invitations", json={}, as_="root")
            return str(made["link"])

        async def join(where: str, name: str) -> httpx.Response:
            secret, nonce = where.partition("#")[2], f"nonce-of-{name}".ljust(32, "0")
            body = {"secret": secret, "nonce": nonce, "id": name}
            return await at.ask("POST", "/api/v1/invitations/redeem", json=body, as_=None)

        used = await link()
        assert (await join(used, "carol")).status_code == 201
        met = Met(await join(used, "dave"), "invitation_invalid")
        assert await at.claw(met.command("claw invite"), as_="root") == 0
        assert (await join(await link(), "dave")).status_code == 201


def moltbook_login(moltbook: FakeMoltbook) -> FeatureSettings:
    """A hub on which one logs in by a profile there."""
    identity = IdentitySettings(
        proofs=["moltbook"], moltbook_url=moltbook.url, moltbook_key=MOLTBOOK_KEY
    )
    return FeatureSettings(identity=identity)


@scenario
async def challenge_expired() -> None:
    clock = FakeClock()
    async with (
        fake_moltbook() as moltbook,
        place(clock=clock, features=moltbook_login(moltbook)) as at,
    ):

        async def begin() -> dict[str, str]:
            asked = {"username": "carol"}
            begun = await at.works("POST", "/auth/init", as_=None, json=asked)
            moltbook.agent("carol", begun["signature"])
            return {**asked, "claim": begun["claim"]}

        body = await begin()
        clock.advance(660)
        met = await at.meets("challenge_expired", "POST", "/auth/verify", as_=None, json=body)
        met.advises("POST /auth/init")
        await at.works("POST", "/auth/verify", as_=None, json=await begin())


@scenario
async def proof_unavailable() -> None:
    async with fake_moltbook() as moltbook, place(features=moltbook_login(moltbook)) as at:
        asked = {"username": "carol"}
        begun = await at.works("POST", "/auth/init", as_=None, json=asked)
        moltbook.agent("carol", begun["signature"])
        moltbook.trouble = "failing"
        body = {**asked, "claim": begun["claim"]}
        met = await at.meets("proof_unavailable", "POST", "/auth/verify", as_=None, json=body)
        met.advises("with the same claim")
        assert met.problem["retryable"]
        moltbook.trouble = None
        await at.works("POST", "/auth/verify", as_=None, json=body)


@scenario
async def not_found() -> None:
    async with place() as at:
        await at.running.token("bob")
        met = await at.meets("not_found", "GET", "/api/v1/accounts/bbo", as_="root")
        for text in ("claw channels", "claw account list"):
            assert await at.claw(met.command(text), as_="root") == 0
        listed = await at.works("GET", "/api/v1/accounts", as_="root")
        assert "bob" in [account["id"] for account in listed["accounts"]]
        await at.works("GET", "/api/v1/accounts/bob", as_="root")


# --- limits, and the hub's own troubles -------------------------------------


@scenario
async def rate_limited() -> None:
    clock = FakeClock()
    settings = HubSettings(limits=LimitSettings(publish_per_s=1, publish_burst=1))
    async with place(settings=settings, clock=clock) as at:
        body = {"data": 1, "dedupe_key": "a"}
        await at.works("POST", LOBBY, json={"data": 0})
        met = await at.meets("rate_limited", "POST", LOBBY, json=body)
        met.advises("Retry-After")
        clock.advance(float(met.headers["retry-after"]))
        await at.works("POST", LOBBY, json=body)


@scenario
async def too_many_subscriptions() -> None:
    settings = HubSettings(limits=LimitSettings(subscriptions_per_session_max=2))
    async with place(settings=settings) as at:
        token = await at.running.token("alice")
        headers = {"Authorization": f"Bearer {token}"}
        async with connect(at.running.ws_url, additional_headers=headers) as socket:

            async def say(**members: Any) -> dict[str, Any]:
                await socket.send(json.dumps(members))
                answer: dict[str, Any] = json.loads(await socket.recv())
                return answer

            for name in ("public.a", "public.b"):
                assert (await say(action="subscribe", channels=[name]))["type"] == "ok"
            wanted = {"action": "subscribe", "channels": ["public.c"]}
            error = (await say(**wanted))["error"]
            assert error["code"] == "too_many_subscriptions"
            assert "Unsubscribe" in error["next"] and "pattern" in error["next"]
            assert (await say(action="unsubscribe", subscription=1))["type"] == "ok"
            assert (await say(**wanted))["type"] == "ok"
        async with connect(at.running.ws_url, additional_headers=headers) as socket:
            assert (await say(action="subscribe", channels=["public.*"]))["type"] == "ok"


@scenario
async def disk_full() -> None:
    engine = FaultyEngine(MemoryEngine(clock=FakeClock(), randomness=FakeRandomness()))
    async with place(engine) as at:
        await at.running.token("alice")
        headers = {"Authorization": f"Bearer {await at.running.token('alice')}"}
        how: dict[str, Any] = {"headers": headers, "json": {"data": 1, "dedupe_key": "a"}}
        engine.is_full = True
        met = Met(await at.client.post(LOBBY, **how), "disk_full")
        met.advises("Free disk space")
        engine.is_full = False
        assert (await at.client.post(LOBBY, **how)).status_code == 201


@scenario
async def outcome_unknown() -> None:
    engine = FaultyEngine(MemoryEngine(clock=FakeClock(), randomness=FakeRandomness()))
    body = {"data": 1, "dedupe_key": "a"}
    async with place(engine) as at:
        how: dict[str, Any] = {"headers": await _bearer(at), "json": body}
        engine.is_broken = True
        met = Met(await at.client.post(LOBBY, **how), "outcome_unknown")
        met.advises("Repeat the publish with the same dedupe key")
    engine.is_broken = False
    # The hub ends itself and is started again on what it had written.
    async with place(engine) as at:
        assert (await at.client.post(LOBBY, **how)).status_code in (200, 201)
        assert len((await at.works("GET", LOBBY))["events"]) == 1


@scenario
async def unavailable() -> None:
    engine = FaultyEngine(MemoryEngine(clock=FakeClock(), randomness=FakeRandomness()))
    body = {"data": 1, "dedupe_key": "a"}
    async with place(engine) as at:
        how: dict[str, Any] = {"headers": await _bearer(at), "json": body}
        await at.running.hub.stop_accepting()
        met = Met(await at.client.post(LOBBY, **how), "unavailable")
        met.advises("Retry-After")
        assert float(met.headers["retry-after"]) > 0
    async with place(engine) as at:
        assert (await at.client.post(LOBBY, **how)).status_code == 201


# --- what only a client meets -----------------------------------------------


@scenario
async def unexpected_answer() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>")
        writer.close()
        await writer.wait_closed()

    async with place() as at, await asyncio.start_server(answer, "127.0.0.1", 0) as other:
        port = other.sockets[0].getsockname()[1]

        def status(url: str) -> Any:
            return HubHttp(parse_address(url).url, None).call("GET", "/version")

        with pytest.raises(ClawError) as met:
            await asyncio.to_thread(status, f"http://127.0.0.1:{port}")
        assert met.value.code == "unexpected_answer"
        assert "Check that the address is that of a clawnet hub" in met.value.next
        assert (await asyncio.to_thread(status, at.running.url))["name"] == "clawnet"


@scenario
async def outbox_full() -> None:
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        async with place("sqlite", data_dir=folder) as at:
            token, port, url = await at.running.token("alice"), at.running.port, at.running.url
        outbox = Outbox(folder / "outbox" / "outbox.db", entries_max=2)
        async with Client(url, token, outbox=outbox, backoff=_at_once) as client:
            for text in ("one", "two"):
                await client.enqueue("public.lobby", text)
            with pytest.raises(OutboxFull) as met:
                await client.enqueue("public.lobby", "three")
            assert "Send what waits (claw outbox flush)" in met.value.next
            async with place("sqlite", data_dir=folder, server=ServerSettings(port=port)) as at:
                assert await outbox.flush(10) == 0
                await client.enqueue("public.lobby", "three")
                assert await outbox.flush(10) == 0
                assert len((await at.works("GET", LOBBY))["events"]) == 3


@scenario
async def too_many_expectations() -> None:
    body = {"data": 1, "expect": {"reply_within_s": 60}}
    inbox = "/api/v1/channels/agent.bob.inbox/events"
    async with place() as at:
        await at.running.token("bob")
        feature = next(one for one in at.running.hub._features if isinstance(one, DeadlinesFeature))
        feature._open_max = 1
        first = await at.works("POST", inbox, json=body)
        met = await at.meets("too_many_expectations", "POST", inbox, json=body)
        met.advises("Publish without expect")
        await at.works("POST", inbox, json={"data": 1})
        # Or one of the answers comes.
        answer = {"data": "here", "causation_id": first["id"]}
        await at.works("POST", inbox.replace("bob", "alice"), json=answer, as_="bob")
        await at.works("POST", inbox, json=body)


def _at_once() -> Backoff:
    return Backoff(first_s=0.01, most_s=0.05)


async def _bearer(at: Place) -> dict[str, str]:
    return {"Authorization": f"Bearer {await at.running.token('alice')}"}


def _claw(words: list[str]) -> int:
    from clawnet.cli.main import main

    return main(words)


# --- the program ------------------------------------------------------------


@program
def hub_unreachable(folder: Path) -> None:
    run = Program(folder / "home")
    with running_program(run, folder / "data") as hub:
        hub.stop()
        gone = hub.try_claw("--json", "status")
        error = json.loads(gone.stderr)["error"]
        assert (gone.returncode, error["code"]) == (69, "hub_unreachable")
        assert "Start the hub (claw up)" in error["next"] and "--server" in error["next"]
        hub.start()
        hub.claw("status")


@program
def already_running(folder: Path) -> None:
    run = Program(folder / "home")
    with running_program(run, folder / "data"):
        words = ["up", "--port", "0", "--json", "--data-dir", str(folder / "data")]
        second = run.run(*words)
        error = json.loads(second.stderr)["error"]
        assert (second.returncode, error["code"]) == (78, "already_running")
        assert "--data-dir" in error["next"] and "Stop the other hub" in error["next"]
        with running_program(run, folder / "other") as other:
            other.claw("status")
    with running_program(run, folder / "data") as again:
        again.claw("status")


@program
def bad_configuration(folder: Path) -> None:
    run = Program(folder / "home")
    bad = run.run("up", "--json", "--data-dir", str(folder / "data"), env={"CLAWNET_PORT": "many"})
    error = json.loads(bad.stderr)["error"]
    assert (bad.returncode, error["code"]) == (78, "bad_configuration")
    assert "CLAWNET_PORT" in error["message"]
    with running_program(run, folder / "data") as hub:  # the port is given as a number
        hub.claw("status")


@program
def storage_corrupt(folder: Path) -> None:
    run = Program(folder / "home")
    data = folder / "data"
    with running_program(run, data) as hub:
        hub.claw("pub", "public.lobby", "kept")
        hub.claw("backup", str(folder / "backup"), "--data-dir", str(data))
        hub.stop()
        (data / "log.db").write_bytes(b"no database" * 1_000)
        for name in ("log.db-wal", "log.db-shm"):
            (data / name).unlink(missing_ok=True)
        broken = run.run("up", "--json", "--port", "0", "--data-dir", str(data))
        error = json.loads(broken.stderr)["error"]
        assert (broken.returncode, error["code"]) == (65, "storage_corrupt")
        assert "claw doctor" in error["next"] and "claw restore" in error["next"], error
        found = run.run("doctor", env={"CLAWNET_DATA_DIR": str(data)})
        assert found.returncode != 0 and b"log.db is damaged" in found.stdout
        run.ok("restore", str(folder / "backup"), "--data-dir", str(data), "--yes")
        hub.start()
        assert "kept" in hub.claw("history", "public.lobby")
