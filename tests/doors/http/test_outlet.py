"""The bounded buffer between a session and a response: pressure, order and ends."""

from __future__ import annotations

import asyncio
import functools
from types import SimpleNamespace
from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from clawnet.core.calls.reading import Gap
from clawnet.core.errors import Forbidden
from clawnet.core.live import End
from clawnet.doors.http.outlet import PIECE_BYTES, StreamOutlet, abort_of, transport_of
from clawnet.doors.http.routes.streams import LineLook, SseLook
from clawnet.testing.clocks import FakeClock


class FakeSession:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.is_paused = False
        self.paused_at_s = 0.0
        self.hub = SimpleNamespace(clock=FakeClock())

    def progressed(self) -> None:
        self.paused_at_s = self.hub.clock.steady_s()

    def pause(self) -> None:
        self.calls.append("pause")
        self.is_paused = True

    def resume(self) -> None:
        self.calls.append("resume")
        self.is_paused = False

    def close(self) -> None:
        self.calls.append("close")


class Client:
    """The other end of a response: takes a message when it is allowed to."""

    def __init__(self) -> None:
        self.body = b""
        self.is_done = False
        self.is_single = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.gone = asyncio.Event()

    async def send(self, message: Any) -> None:
        await self.gate.wait()
        if self.is_single:
            self.gate.clear()
        self.body += message.get("body", b"")
        self.is_done = message["type"] == "http.response.body" and not message["more_body"]

    async def receive(self) -> Any:
        await self.gone.wait()
        return {"type": "http.disconnect"}


def outlet(look: Any = None, *, events_max: int | None = None) -> tuple[StreamOutlet, FakeSession]:
    made = StreamOutlet(look or SseLook(), high_bytes=10, ping_s=3_600, events_max=events_max)
    session = FakeSession()
    made.session = session  # type: ignore[assignment]
    return made, session


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_pressure_is_told_once_the_buffer_is_high_and_when_it_is_taken() -> None:
    made, session = outlet()
    client = Client()
    client.gate.clear()
    pump = asyncio.create_task(made.pump(client.receive, client.send, headers=[]))
    made.write(b"x" * 10)
    assert session.calls == []
    made.write(b"y")
    assert session.calls == ["pause"]
    await turns()
    assert "resume" not in session.calls
    client.gate.set()
    await turns()
    assert session.calls == ["pause", "resume"]
    assert client.body == b"x" * 10 + b"y"
    client.gone.set()
    await pump
    assert session.calls[-1] == "close"


async def test_what_is_written_while_a_send_waits_goes_out_behind_it() -> None:
    made, session = outlet()
    client = Client()
    pump = asyncio.create_task(made.pump(client.receive, client.send, headers=[]))
    await turns()
    client.gate.clear()
    made.write(b"1")
    await turns()
    made.write(b"2" * 11)
    made.gap(1, Gap(channel="c", first=1, last=2, oldest=3))
    made.write(b"3")
    client.gate.set()
    await turns()
    assert client.body.startswith(b"1" + b"2" * 11 + b"event: gap\n")
    assert client.body.endswith(b"3")
    assert session.calls[-1] == "resume"
    client.gone.set()
    await pump


async def test_a_slow_reader_that_reads_is_seen_to_make_progress() -> None:
    made, session = outlet()
    client = Client()
    pump = asyncio.create_task(made.pump(client.receive, client.send, headers=[]))
    await turns()
    client.gate.clear()
    made.write(b"x" * (3 * PIECE_BYTES))
    await turns()
    client.is_single = True
    for taken in (1, 2):
        session.hub.clock.advance(9.0)
        client.gate.set()
        await turns()
        assert len(client.body) == taken * PIECE_BYTES
        assert session.paused_at_s == taken * 9.0
        assert session.is_paused
    client.gate.set()
    await turns()
    assert not session.is_paused
    client.is_single = False
    client.gone.set()
    client.gate.set()
    await pump


async def test_revoked_in_the_middle_of_a_send_sends_nothing_more() -> None:
    made, _ = outlet()
    client = Client()
    pump = asyncio.create_task(made.pump(client.receive, client.send, headers=[]))
    await turns()
    client.gate.clear()
    made.write(b"x" * (3 * PIECE_BYTES))
    await turns()
    made.close(End.REVOKED)
    client.gate.set()
    await pump
    # A real connection is dropped with what waits; this one has no abort, and takes one piece.
    assert client.body.count(b"x") <= PIECE_BYTES + 1


async def test_revoked_drops_what_is_queued() -> None:
    made, _ = outlet()
    client = Client()
    client.gate.clear()
    pump = asyncio.create_task(made.pump(client.receive, client.send, headers=[]))
    made.write(b"secret")
    made.close(End.REVOKED)
    client.gate.set()
    await pump
    assert b"secret" not in client.body
    assert b'"reason":"revoked"' in client.body
    assert client.is_done


async def test_shutdown_keeps_what_is_queued() -> None:
    made, _ = outlet()
    client = Client()
    made.write(b"last")
    made.close(End.SHUTDOWN)
    await made.pump(client.receive, client.send, headers=[])
    assert client.body.startswith(b"last")
    assert client.is_done


async def test_nothing_is_written_behind_the_end() -> None:
    made, _ = outlet(LineLook())
    client = Client()
    made.ended(1, Forbidden("no"))
    made.write(b"late\n")
    made.ended(1, Forbidden("no"))
    made.dropped(1, "c", Forbidden("no"))
    made.gap(1, Gap(channel="c", first=1, last=2, oldest=3))
    made.close(End.SHUTDOWN)
    await made.pump(client.receive, client.send, headers=[])
    assert client.body.count(b"\n") == 1
    assert b'"forbidden"' in client.body


@pytest.mark.parametrize("chunks", [[b"1\n2\n3\n4\n"], [b"1\n", b"2\n3\n4\n"], [b"1\n2\n", b"3\n"]])
async def test_count_cuts_inside_a_joined_write(chunks: list[bytes]) -> None:
    made, session = outlet(LineLook(), events_max=3)
    client = Client()
    for chunk in chunks:
        made.write(chunk)
    made.write(b"5\n")
    await made.pump(client.receive, client.send, headers=[])
    assert client.body == b"1\n2\n3\n"
    assert client.is_done
    assert "close" in session.calls


def test_the_connection_behind_a_wrapped_send_is_found() -> None:
    transport = SimpleNamespace(abort=lambda: None)
    cycle = RequestResponseCycle.__new__(RequestResponseCycle)
    cycle.transport = transport  # type: ignore[assignment]
    assert transport_of(cycle.send) is transport  # type: ignore[comparison-overlap, arg-type]
    middleware = functools.partial(print, send=cycle.send)
    assert transport_of(middleware) is transport  # type: ignore[comparison-overlap, arg-type]
    assert transport_of(Client().send) is None
    assert abort_of(Client().send) is None


async def test_what_an_ended_stream_has_not_sent_can_be_taken_back() -> None:
    made, _ = outlet()
    client = Client()
    made.write(b"secret")
    made.ended(1, Forbidden("over"))
    assert made.unsent() > 0
    made.retract()
    await made.pump(client.receive, client.send, headers=[])
    assert client.body == b""


async def test_what_waits_inside_a_send_is_unsent() -> None:
    made, _ = outlet()
    client = Client()
    pump = asyncio.create_task(made.pump(client.receive, client.send, headers=[]))
    await turns()
    client.gate.clear()
    made.write(b"secret")
    await turns()
    assert made.unsent() > 0
    client.gate.set()
    await turns()
    assert made.unsent() == 0
    client.gone.set()
    await pump
