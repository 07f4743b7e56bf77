"""The sync face against a real hub: it waits, it ends, and it cannot drift from the client."""

import asyncio
import gc
import inspect
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from clawnet.client import (
    Client,
    Consumer,
    HubUnreachable,
    Outbox,
    Subscription,
    SyncClient,
    SyncConsumer,
    SyncSubscription,
    data_of,
)
from clawnet.client.loop_thread import LoopThread
from clawnet.client.sync_parts import SyncOutbox, SyncReceived, SyncWakeable
from clawnet.client.wakeable import Wakeable
from clawnet.core.errors import BadConfiguration, Conflict, DedupeConflict, Forbidden
from clawnet.core.events import Event
from clawnet.testing.running import Running, running_hub

SRC = Path(__file__).parents[2] / "src"


class Server:
    """A hub in a thread of its own, since the tests here block theirs."""

    def __init__(self) -> None:
        self.url = ""
        self.tokens: dict[str, str] = {}
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._end: asyncio.Event
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self) -> "Server":
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(20)
        assert not self._thread.is_alive()

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        async with running_hub() as running:
            await self._prepare(running)
            self._ready.set()
            await self._end.wait()

    async def _prepare(self, running: Running) -> None:
        self.url = running.url
        self.tokens = {name: await running.token(name) for name in ("alice", "bob")}
        self.tokens["root"] = await running.token("root", role="master")

    def client(self, account: str = "alice", **more: Any) -> SyncClient:
        return SyncClient(self.url, self.tokens[account], **more)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


@contextmanager
def nobody_there() -> Iterator[str]:
    """The address of a port that is held and not listened on, so that nobody else opens it."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name == "clawnet client"}


# --- it is the client --------------------------------------------------------------------


def public(kind: type) -> dict[str, Any]:
    # Also what it has from its parts, such as InboxCalls.
    parts = [part for part in kind.__mro__ if part.__module__.startswith("clawnet.")]
    names = {name for part in parts for name in vars(part) if not name.startswith("_")}
    return {name: getattr(kind, name) for name in names}


WORDS = {"aclose": "close"}
RESULTS = {"Consumer": "SyncConsumer", "Outbox": "SyncOutbox", "Received": "SyncReceived",
           "Subscription": "SyncSubscription", "Wakeable": "SyncWakeable"}  # fmt: skip


@pytest.mark.parametrize(
    ("sync", "real", "more"),
    [
        (SyncClient, Client, set[str]()),
        (SyncConsumer, Consumer, set[str]()),
        (SyncSubscription, Subscription, {"poll"}),
        (SyncWakeable, Wakeable, set[str]()),
        # What belongs to the client that has it, and what it does for it.
        (SyncOutbox, Outbox, {"-open", "-attach", "-aclose", "-enqueue", "pending", "trouble"}),
    ],
)
def test_the_sync_face_has_every_method_with_the_same_signature(
    sync: type, real: type, more: set[str]
) -> None:
    there, here = public(real), public(sync)
    wanted = {WORDS.get(name, name) for name in there if f"-{name}" not in more}
    attributes = {"info", "lag"} if real is Consumer else set()
    assert set(here) == wanted | attributes | {name for name in more if name[0] != "-"}
    for name, method in there.items():
        if f"-{name}" in more or not callable(method):
            continue
        mine = inspect.signature(here[WORDS.get(name, name)])
        theirs = inspect.signature(method)
        for parameter, wanted_one in zip(
            mine.parameters.values(), theirs.parameters.values(), strict=True
        ):
            given = (parameter.name, parameter.kind, parameter.default)
            assert given == (wanted_one.name, wanted_one.kind, wanted_one.default), name
            annotation = str(wanted_one.annotation).replace("Received", "SyncReceived")
            # What is called for a message waits here too.
            annotation = annotation.replace("OnMessage", "Callable[[Event], None]")
            assert str(parameter.annotation) == annotation, (name, parameter.name)
        result = str(theirs.return_annotation)
        for plain, blocking in RESULTS.items():
            if result in (plain, f"list[{plain}]"):
                result = result.replace(plain, blocking)
        assert str(mine.return_annotation) == result, name


def test_every_kind_of_call_is_answered(server: Server) -> None:
    with server.client() as client, server.client("root") as root:
        assert client.url == server.url
        me = client.me()
        assert me.account is not None
        assert me.account.id == "alice"
        published = client.publish("public.a", {"n": 1}, type="x.a")
        assert client.event(published.id).type == "x.a"
        places = client.publish_batch([{"channel": "public.a", "data": n} for n in range(3)])
        assert [place.offset for place in places] == [2, 3, 4]
        page = client.history("public.a", since=1)
        assert [data_of(event) for event in page.events] == [0, 1, 2]
        assert "public.a" in [channel.name for channel in client.channels("public.>")]
        assert client.grant("bob", "agent.alice.notes").account == "bob"
        assert [grant.account for grant in client.grants()] == ["bob"]
        client.revoke("bob", "agent.alice.notes")
        assert client.unlock("agent.alice.notes").channel == "agent.alice.notes"
        assert client.lock("agent.alice.notes").channel == "agent.alice.notes"
        client.block("bob")
        assert client.blocks() == ["bob"]
        client.unblock("bob")
        assert isinstance(client.presence(), list)
        assert client.consumers() == []
        made = client.create_token(name="second")
        client.revoke_token(made.id)
        assert made.id not in [token.id for token in client.tokens()]
        root.create_account("carol")
        assert root.update_account("carol", handle="Carola").handle == "Carola"
        assert root.account("carol").id == "carol"
        assert "carol" in [account.id for account in root.accounts()]
        root.delete_account("carol")
        assert client.request("GET", "/api/v1/me", None, dict)["world"] == "main"
        client.request("GET", "/api/v1/me", None, None)
        root.publish("agent.alice.inbox", "for alice")
        messages = client.inbox(wait_s=5)
        assert [data_of(each.event) for each in messages.messages] == ["for alice"]
        client.ack_inbox(messages.messages)
        assert client.inbox().messages == []


def test_refusals_come_as_they_are(server: Server) -> None:
    with server.client() as client:
        with pytest.raises(Forbidden):
            client.publish("agent.bob.notes", 1)
        client.publish("public.k", 1, dedupe_key="k")
        with pytest.raises(DedupeConflict):
            client.publish("public.k", 2, dedupe_key="k")


def test_a_subscription_is_an_iterator_that_another_thread_may_end(server: Server) -> None:
    heard: list[Any] = []
    with server.client() as client, server.client("bob") as other:
        subscription = client.subscribe("public.live")
        with subscription as events:
            reader = threading.Thread(target=lambda: heard.extend(data_of(e) for e in events))
            reader.start()
            for number in range(20):
                other.publish("public.live", number)
            with other.subscribe("public.live", since="all") as all_of_them:
                for _ in range(20):
                    assert next(all_of_them).channel == "public.live"
                assert all_of_them.cursor is not None
                assert all_of_them.poll(within_s=0.01) is None
            while len(heard) < 20:
                reader.join(0.01)
            events.close()
            reader.join(10)
            assert not reader.is_alive()
        subscription.close()
    assert heard == list(range(20))


def test_a_consumer_fetches_and_acknowledges(server: Server) -> None:
    with server.client() as client:
        for number in range(4):
            client.publish("public.work", number)
        with client.consumer("worker", ["public.work"], since="all", batch=2) as work:
            first = next(work)
            assert (data_of(first.event), first.attempt) == (0, 1)
            assert first.ack()
            assert next(work).nack()
        with client.consumer("worker", ["public.work"], since="all") as work:
            rest = work.fetch(wait_s=5)
            assert isinstance(rest[0], SyncReceived)
            while len(rest) < 3:
                rest += work.fetch(wait_s=5)
            assert sorted(data_of(each.event) for each in rest) == [1, 2, 3]
            assert work.nack(rest[:1]) == []
            assert work.ack(rest[1:]) == []
            assert work.name == "worker"
            assert work.info is not None
            with pytest.raises(Conflict):
                client.consumer("worker", ["public.other"]).create()
            work.delete()
        assert client.consumers() == []


def test_the_outbox_is_there_too(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with server.client(outbox=path) as client:
        kept = client.enqueue("public.o", 1)
        client.enqueue("agent.bob.notes", 1)
        assert client.outbox.flush(20) == 0
        assert client.outbox.path == path
        assert (client.outbox.pending, client.outbox.trouble) == (0, None)
        assert [each.code for each in client.outbox.refused()] == ["forbidden"]
        assert client.outbox.clear_refused() == 1
        assert client.history("public.o", since=0).events[0].dedupe_key == kept.dedupe_key
    with server.client() as client, pytest.raises(BadConfiguration, match="no outbox"):
        client.outbox.flush()


def test_it_can_be_woken_and_answer_and_the_sender_sees_it(server: Server) -> None:
    with server.client() as alice, server.client("bob") as bob:
        asked = threading.Event()

        def on_message(event: Event) -> None:
            alice.reply(event, "done")
            asked.set()

        with alice.wakeable(on_message):
            question = bob.publish("agent.alice.inbox", "please", reply_within_s=60)
            assert asked.wait(20)
            assert bob.receipt(question.id, until="acted", wait_s=20).acted is not None
            [answer] = bob.inbox(wait_s=20).messages
            assert data_of(answer.event) == "done"


def test_many_threads_use_one_client(server: Server) -> None:
    with server.client() as client, ThreadPoolExecutor(8) as pool:
        places = list(pool.map(lambda n: client.publish("public.many", n), range(200)))
    assert sorted(place.offset for place in places) == list(range(1, 201))


# --- it ends ------------------------------------------------------------------------------


def test_a_closed_client_says_so_and_leaves_no_thread(server: Server) -> None:
    client = server.client()
    with client:
        client.publish("public.a", 1)
        left_open = client.subscribe("public.a")
        left_open.__enter__()
    client.close()
    with pytest.raises(BadConfiguration, match="closed"):
        client.publish("public.a", 1)
    with pytest.raises(BadConfiguration, match="closed"):
        next(left_open)
    left_open.close()
    assert threads() == set()


def test_a_client_that_nobody_holds_takes_its_thread_along(server: Server) -> None:
    client = server.client()
    assert client.me().world == "main"
    client.close()
    lost = server.client()
    name = lost._thread._thread
    del lost
    gc.collect()
    name.join(10)
    assert not name.is_alive()


def test_what_waits_is_ended_by_closing() -> None:
    with nobody_there() as url, ThreadPoolExecutor(1) as pool:
        client = SyncClient(url, "claw_t")
        waiting = pool.submit(client.publish, "public.a", 1)
        while client._client._publisher._task is None:
            threading.Event().wait(0.001)
        client.close()
        with pytest.raises(HubUnreachable):
            waiting.result(20)


def test_a_callback_that_uses_the_client_is_told_instead_of_waiting_for_itself(
    server: Server,
) -> None:
    told: list[Exception] = []

    with server.client() as client:

        async def callback() -> None:
            try:
                client.me()
            except BadConfiguration as error:
                told.append(error)

        client._thread.run(callback)
    assert "callbacks" in str(told[0])


def test_ctrl_c_comes_through_and_the_client_can_go_on(server: Server) -> None:
    main = threading.main_thread().ident
    assert main is not None
    with server.client() as client, client.subscribe("public.silent") as events:
        is_waiting = threading.Event()
        plain = client._thread.run

        def run(function: Callable[..., Any], *args: Any, **more: Any) -> Any:
            is_waiting.set()
            return plain(function, *args, **more)

        client._thread.run = run  # type: ignore[method-assign,assignment]

        def interrupt() -> None:
            is_waiting.wait(20)
            signal.pthread_kill(main, signal.SIGINT)

        interrupting = threading.Thread(target=interrupt)
        interrupting.start()
        with pytest.raises(KeyboardInterrupt):
            next(events)
        interrupting.join()
        client.publish("public.silent", "after")
        assert data_of(next(events)) == "after"


def test_after_a_fork_it_says_so(server: Server) -> None:
    script = """
import os, sys
from clawnet.client import SyncClient
client = SyncClient(sys.argv[1], sys.argv[2])
client.me()
pid = os.fork()
if pid == 0:
    try:
        client.me()
    except Exception as error:
        print(error, flush=True)
    client.close()
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
print(client.me().account.id)
"""
    out, err, code = run_script(script, server.url, server.tokens["alice"])
    assert (code, "Traceback" in err) == (0, False)
    assert out.splitlines()[0].startswith("This SyncClient was made before a fork")
    assert out.splitlines()[1] == "alice"


@pytest.mark.parametrize("ending", ["pass", "sys.exit(3)", "raise KeyboardInterrupt"])
def test_nothing_hangs_when_a_program_ends_without_closing(
    server: Server, tmp_path: Path, ending: str
) -> None:
    script = f"""
import atexit, sys, time
from clawnet.client import SyncClient
# The rest of the program takes its time to end.
atexit.register(time.sleep, 0.8)
client = SyncClient(sys.argv[1], sys.argv[2], outbox=sys.argv[3])
client.publish("public.end", 1)
events = client.subscribe("public.end")
events.__enter__()
client.enqueue("public.end", 2)
print("used", flush=True)
{ending}
"""
    path = str(tmp_path / "outbox.db")
    out, err, code = run_script(script, server.url, server.tokens["alice"], path)
    assert out == "used\n"
    if ending == "pass":
        assert (code, err) == (0, "")
    elif ending == "sys.exit(3)":
        assert (code, err) == (3, "")
    else:
        assert err.splitlines()[-1] == "KeyboardInterrupt"
        assert "clawnet" not in err


def run_script(script: str, *arguments: str) -> tuple[str, str, int]:
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", script, *arguments],
        capture_output=True,
        timeout=60,
        check=False,
        env={"PYTHONPATH": str(SRC), "PATH": os.environ["PATH"]},
    )
    return done.stdout.decode(), done.stderr.decode(), done.returncode


def test_a_bad_address_starts_no_thread() -> None:
    before = threading.active_count()
    with pytest.raises(BadConfiguration):
        SyncClient("ftp://nowhere")
    assert threading.active_count() == before


def test_a_bad_outbox_leaves_no_thread(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    client = SyncClient("http://127.0.0.1:1", "claw_t", outbox=tmp_path / "file" / "o.db")
    with pytest.raises(BadConfiguration), client:
        pass
    assert not client._thread._thread.is_alive()


def test_work_for_a_stopped_thread_is_refused() -> None:
    thread = LoopThread()
    thread.stop()
    thread.stop()
    with pytest.raises(BadConfiguration, match="closed"):
        thread.run(asyncio.sleep, 0)
