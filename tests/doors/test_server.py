"""The server seam: heads, hand-over, timers, and stopping in order."""

import asyncio
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from clawnet.core.errors import BadConfiguration
from clawnet.doors.connections import ConnectionSettings
from clawnet.doors.server import ServerSettings, listen, url_of
from clawnet.testing.running import Running, running_hub
from tests.doors.ws.clients import WAIT_MAX_S, Raw, client, request

LIMIT = ConnectionSettings().head_max_bytes


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with what it was asked, as JSON; /stream never ends; /quiet does not answer."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    if scope["path"] == "/quiet":
        await asyncio.Event().wait()
    answer = {
        "path": scope["path"],
        "client": scope["client"][0],
        "is_local": scope["state"]["admitted"].is_local,
        "body_bytes": len(body),
        "header_count": len(scope["headers"]),
    }
    text = json.dumps(answer).encode()
    is_stream = scope["path"] == "/stream"
    headers = [] if is_stream else [(b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text, "more_body": is_stream})
    if is_stream:
        await asyncio.Event().wait()


def serving(**connections: Any) -> Any:
    settings = ServerSettings(port=0, connections=ConnectionSettings(**connections))
    return running_hub(make_app=lambda hub: echo, server=settings)


def get(path: str = "/", *headers: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def get_of_size(size: int, *, headers: int = 1) -> bytes:
    """A request whose head has exactly so many bytes."""
    names = [f"X-{n}: " for n in range(headers)]
    spare = size - len(get("/", *names))
    names[0] += "x" * spare
    head = get("/", *names)
    assert len(head) == size
    return head


# --- plain requests ---------------------------------------------------------


async def test_a_request_reaches_the_app_with_the_gates_verdict() -> None:
    async with serving() as hub, await Raw.connect(hub) as raw:
        raw.send(get("/a"))
        status, headers, body = await raw.response()
        assert status == 200 and "date" in headers
        assert json.loads(body)["is_local"] is True
        raw.send(get("/b", "X-Forwarded-For: 1.2.3.4"))
        _, _, body = await raw.response()
        assert json.loads(body)["is_local"] is False
        assert json.loads(body)["client"] == "127.0.0.1"


async def test_a_trusted_proxy_tells_the_client() -> None:
    settings = ServerSettings(port=0, behind_proxy=("127.0.0.1",))
    async with (
        running_hub(make_app=lambda hub: echo, server=settings) as hub,
        await Raw.connect(hub) as raw,
    ):
        raw.send(get("/", "X-Forwarded-For: 203.0.113.9"))
        _, _, body = await raw.response()
        assert json.loads(body)["client"] == "203.0.113.9"
        assert json.loads(body)["is_local"] is False


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n\r\n", 403),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n", 400),
        (get("/", "Content-Length: 1", "Transfer-Encoding: chunked"), 400),
    ],
)
async def test_what_the_gate_or_the_parser_refuses_is_a_problem(sent: bytes, status: int) -> None:
    async with serving() as hub, await Raw.connect(hub) as raw:
        raw.send(sent)
        given_status, headers, body = await raw.response()
        assert given_status == status
        assert headers["content-type"] == "application/problem+json"
        assert headers["connection"] == "close"
        assert json.loads(body)["status"] == status
        assert await raw.rest() == b""


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with serving() as hub, await Raw.connect(hub) as raw:
        count = 2_000
        raw.send(b"".join(get(f"/{n}") for n in range(count)))
        for n in range(count):
            _, _, body = await raw.response()
            assert json.loads(body)["path"] == f"/{n}"


async def test_pipelined_requests_wait_unparsed_behind_one_without_answer() -> None:
    async with serving() as hub, await Raw.connect(hub) as raw:
        raw.send(get("/quiet") + b"".join(get(f"/{n}") for n in range(5_000)))
        await so(lambda: any(waiting(connection) for connection in hub.connections.all))
        await turns()
        [connection] = hub.connections.all
        assert waiting(connection) < 100
        raw.writer.transport.abort()


def waiting(connection: object) -> int:
    return len(getattr(connection, "pipeline", ()))


async def test_an_upgrade_that_nobody_offers_is_an_ordinary_request() -> None:
    async with serving() as hub, await Raw.connect(hub) as raw:
        raw.send(get("/", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"))
        assert (await raw.response())[0] == 200


async def test_a_large_body_passes() -> None:
    async with serving() as hub, await Raw.connect(hub) as raw:
        raw.send(get("/", f"Content-Length: {1_048_576}").replace(b"GET", b"POST"))
        raw.send(b"x" * 1_048_576)
        assert json.loads((await raw.response())[2])["body_bytes"] == 1_048_576
        chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
        raw.send(get("/", "Transfer-Encoding: chunked").replace(b"GET", b"POST"))
        raw.send(chunk * 16 + b"0\r\n\r\n")
        assert json.loads((await raw.response())[2])["body_bytes"] == 1_048_576


# --- heads ------------------------------------------------------------------


@pytest.mark.parametrize("headers", [1, 100])
async def test_a_head_of_exactly_the_limit_passes_and_one_byte_more_is_431(headers: int) -> None:
    async with serving() as hub:
        async with await Raw.connect(hub) as raw:
            raw.send(get_of_size(LIMIT, headers=headers))
            assert (await raw.response())[0] == 200
            # The same again on a connection that has spoken already.
            raw.send(get_of_size(LIMIT, headers=headers))
            assert (await raw.response())[0] == 200
        async with await Raw.connect(hub) as raw:
            raw.send(get_of_size(LIMIT + 1, headers=headers))
            status, answer, body = await raw.response()
            assert status == 431 and json.loads(body)["code"] == "headers_too_large"
            assert answer["connection"] == "close"
            assert await raw.rest() == b""


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"X-Header: " + b"x" * 86 + b"\r\n"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Endless: ", b"x" * 98),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX-", b"x" * 98),
        (b"GET /", b"x" * 98),
        (
            b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
            b"X-Trailer: " + b"x" * 85 + b"\r\n",
        ),
        (
            b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1;",
            b"extension",
        ),
    ],
    ids=["headers", "value", "name", "target", "trailers", "chunk extension"],
)
async def test_54_mb_of_head_cost_bounded_memory(start: bytes, piece: bytes) -> None:
    async with serving() as hub, await Raw.connect(hub) as raw:
        tracemalloc.start()
        raw.send(start)
        flood = piece * (65_536 // len(piece))
        sent = 0
        try:
            while sent < 54_000_000 and not raw.reader.at_eof():
                raw.send(flood)
                sent += len(flood)
                await raw.writer.drain()
        except ConnectionError:
            pass
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 3_000_000
        assert sent < 10_000_000, "the connection should have been closed long before"
        async with await Raw.connect(hub) as other:
            other.send(get())
            assert (await other.response())[0] == 200


async def test_a_head_that_trickles_is_cut_after_its_time() -> None:
    async with serving() as hub, await Raw.connect(hub) as raw:
        for byte in get()[:20]:
            raw.send(bytes([byte]))
            await raw.writer.drain()
            hub.pass_time(0.5)
            await asyncio.sleep(0)
        hub.pass_time(1.0)
        assert await raw.rest() == b""
        assert not hub.connections.all


async def test_a_later_head_has_its_own_time() -> None:
    async with serving() as hub, await Raw.connect(hub) as raw:
        raw.send(get())
        assert (await raw.response())[0] == 200
        hub.pass_time(9.0)
        raw.send(get()[:10])
        await received(hub)
        hub.pass_time(9.0)
        raw.send(get()[10:])
        assert (await raw.response())[0] == 200
        raw.send(get()[:10])
        await received(hub)
        hub.pass_time(21.0)
        assert await raw.rest() == b""


async def received(hub: Running) -> None:
    """Wait until the server has read the begin of a head."""
    await so(lambda: any(getattr(c, "_is_in_head", False) for c in hub.connections.all))


async def settle_connections(hub: Running, count: int) -> None:
    await so(lambda: len(hub.connections.all) == count)


async def so(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something is so."""
    async with asyncio.timeout(WAIT_MAX_S):
        while not condition():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)


async def test_a_connection_that_says_nothing_is_cut() -> None:
    async with serving() as hub, await Raw.connect(hub) as raw:
        await settle_connections(hub, 1)
        hub.pass_time(11.0)
        assert await raw.rest() == b""


async def test_a_body_that_stalls_is_cut_and_one_that_moves_is_not() -> None:
    async with serving() as hub:
        async with await Raw.connect(hub) as raw:
            raw.send(get("/", "Content-Length: 1000").replace(b"GET", b"POST") + b"x")
            await settle_connections(hub, 1)
            await turns()
            hub.pass_time(100.0)
            assert await raw.rest() == b""
        async with await Raw.connect(hub) as raw:
            raw.send(get("/", "Content-Length: 10").replace(b"GET", b"POST"))
            for _ in range(10):
                raw.send(b"x")
                await raw.writer.drain()
                await turns()
                hub.pass_time(15.0)
            assert (await raw.response())[0] == 200


async def turns() -> None:
    """Let what was sent on loopback be received."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_connections_beyond_the_cap_replace_silent_ones() -> None:
    async with serving(connections_max=10) as hub:
        raws = [await Raw.connect(hub) for _ in range(30)]
        await settle_connections(hub, 10)
        raws[-1].send(get())
        assert (await raws[-1].response())[0] == 200
        for raw in raws:
            raw.close()


async def test_a_cap_of_served_connections_is_503() -> None:
    async with serving(connections_max=2) as hub:
        token = await hub.token()
        async with client(hub, token), client(hub, token), await Raw.connect(hub) as raw:
            status, headers, body = await raw.response()
            assert status == 503 and "retry-after" in headers
            assert json.loads(body)["code"] == "unavailable"


# --- listening --------------------------------------------------------------


async def test_an_address_in_use_is_told_in_one_sentence() -> None:
    async with serving() as hub:
        with pytest.raises(BadConfiguration, match="in use") as refused:
            await listen("127.0.0.1", hub.port)
        assert "--port" in refused.value.next


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70_000), ("no.such.host.invalid", 0)])
async def test_an_address_that_cannot_be_had_is_told(host: str, port: int) -> None:
    with pytest.raises(BadConfiguration):
        await listen(host, port)


async def test_a_port_without_permission_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forbidding(socket.socket):
        def bind(self, address: Any) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("clawnet.doors.server.socket.socket", Forbidding)
    with pytest.raises(BadConfiguration, match="may not listen"):
        await listen("127.0.0.1", 80)


async def test_all_addresses_of_a_name_get_the_same_free_port() -> None:
    socks = await listen("localhost", 0)
    assert len({sock.getsockname()[1] for sock in socks}) == 1
    for sock in socks:
        sock.close()


def test_urls_are_as_a_person_opens_them() -> None:
    assert url_of("127.0.0.1", 80) == "http://127.0.0.1:80"
    assert url_of("::1", 80) == "http://[::1]:80"


# --- stopping ---------------------------------------------------------------


async def test_stopping_is_not_held_by_streams_keep_alives_or_requests_without_answer() -> None:
    async with serving() as hub:
        idle, stream, quiet, half = [await Raw.connect(hub) for _ in range(4)]
        idle.send(get())
        await idle.response()
        stream.send(get("/stream"))
        await stream.reader.readuntil(b"}")
        quiet.send(get("/quiet"))
        half.send(get()[:10])
        silent = await Raw.connect(hub)
        websocket = await Raw.upgraded(hub, token=await hub.token())
        await settle_connections(hub, 6)
        began_s = time.monotonic()
        await hub.stop()
        # The deadline is 0.9 s; a stalled machine is no defect.
        assert time.monotonic() - began_s < 5.0
        assert not hub.server.server_state.tasks
        for raw in (idle, stream, quiet, half, silent):
            await raw.rest()
        ended = await websocket.ended()
        assert ended is not None and ended.code == 1001
        for raw in (idle, stream, quiet, half, silent, websocket):
            raw.close()


async def test_what_was_queued_is_answered_before_the_close() -> None:
    """The steps in order: nothing is read any more, then answers, then the close frame."""
    steps: list[str] = []
    async with running_hub() as hub:
        token = await hub.token()
        stop_accepting, drain = hub.server._on_stop_accepting, hub.server._on_drain
        committer = hub.hub.committer
        flush = committer._flush
        committer._flush = lambda: None  # type: ignore[method-assign]

        async def stop_accepting_seen() -> None:
            steps.append("stop")
            await stop_accepting()

        async def drain_seen() -> None:
            steps.append("drain")
            committer._flush = flush  # type: ignore[method-assign]
            flush()
            await drain()

        hub.server._on_stop_accepting = stop_accepting_seen
        hub.server._on_drain = drain_seen
        async with client(hub, token) as socket:
            for n in range(5):
                publish = {"action": "publish", "channel": "public.lobby", "data": n, "id": n}
                await socket.send(json.dumps(publish))
            await so(lambda: [s.pending for p in hub.hub.sessions.values() for s in p] == [5])
            await hub.stop()
            answers = [json.loads(await socket.recv()) for _ in range(5)]
            assert [answer["type"] for answer in answers] == ["ok"] * 5
            await socket.wait_closed()
            assert socket.close_code == 1001
    assert steps == ["stop", "drain"]


async def test_while_stopping_new_connections_and_upgrades_are_refused() -> None:
    async with serving() as hub, await Raw.connect(hub) as raw:
        await settle_connections(hub, 1)
        hub.server.seam.is_stopping = True
        raw.send(request())
        assert (await raw.response())[0] == 503


async def test_a_step_that_hangs_or_fails_does_not_hold_the_exit() -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    async def fail() -> None:
        raise RuntimeError("as a test")

    async with serving() as hub:
        hub.server._on_stop_accepting = fail
        hub.server._on_drain = hang
        began_s = time.monotonic()
        await hub.stop()
        # The deadline is 0.9 s; a stalled machine is no defect.
        assert time.monotonic() - began_s < 5.0


SERVER = """
    import asyncio, uvloop
    from clawnet.testing.running import running_hub

    async def main():
        async with running_hub() as hub:
            hub.server._handles_signals = True
            caught = hub.server._catch_signals()
            print(hub.port, await hub.token(), flush=True)
            await hub.serving
    uvloop.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_with_0_in_time(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SERVER)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ},
    )  # fmt: skip
    assert process.stdout is not None
    port, _token = process.stdout.readline().split()
    with socket.create_connection(("127.0.0.1", int(port))) as sock:
        sock.sendall(request())
        assert b"101" in sock.recv(1_000)
        began_s = time.monotonic()
        process.send_signal(number)
        _, errors = process.communicate(timeout=WAIT_MAX_S)
        # 0.9 s is the deadline and the interpreter ends after it; a stalled machine is no defect.
        assert time.monotonic() - began_s < 5.0
    assert process.returncode == 0
    assert errors == ""
