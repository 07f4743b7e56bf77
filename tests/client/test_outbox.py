"""The outbox in front of a real hub that is away, comes back and refuses."""

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clawnet.client import Client, Enqueued, Outbox, Refusal, UnexpectedAnswer, data_of
from clawnet.client.backoff import Backoff
from clawnet.client.outbox_store import Store, default_path
from clawnet.core.callers import HUB
from clawnet.core.calls.publishing import Published
from clawnet.core.calls.tokens import RevokeToken
from clawnet.core.errors import (
    BadConfiguration,
    ClawError,
    InvalidChannel,
    InvalidData,
    OutboxFull,
    PayloadTooLarge,
    StorageCorrupt,
    Unauthenticated,
)
from clawnet.doors.server import ServerSettings
from clawnet.testing.running import Running, running_hub
from tests.client.outbox_waiting import flush_for_ever, until

CHANNEL = "public.a"


class Site:
    """A hub at one address that is there or not, with what it keeps, and an outbox's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.tokens: dict[str, str] = {}

    @property
    def path(self) -> Path:
        return self.folder / "outbox.db"

    @asynccontextmanager
    async def hub(self, *accounts: str) -> AsyncIterator[Running]:
        """The hub, as long as the block lasts; its log outlives it."""
        server = ServerSettings(port=self.port)
        async with running_hub("sqlite", data_dir=self.folder / "hub", server=server) as running:
            for account in accounts or ("alice",):
                if account not in self.tokens:
                    self.tokens[account] = await running.token(account)
            yield running

    def client(self, account: str = "alice", outbox: Any = None, **more: Any) -> Client:
        return Client(
            self.url,
            self.tokens.get(account, f"claw_{account}"),
            outbox=outbox or Outbox(self.path, **more),
            backoff=lambda: Backoff(first_s=0.01, most_s=0.05),
        )

    def store(self) -> Store:
        return Store(self.path, self.url)

    async def known(self, *accounts: str) -> None:
        """The accounts exist, and the hub is away again."""
        async with self.hub(*accounts):
            pass

    async def stored(self, channel: str = CHANNEL, account: str = "alice") -> list[Any]:
        async with Client(self.url, self.tokens[account]) as client:
            page = await client.history(channel, since=0, limit=1_000)
            return [data_of(event) for event in page.events]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with asyncio.timeout(40):
        yield Site(tmp_path)


# --- what has to be refused -----------------------------------------------------


async def test_a_client_without_an_outbox_says_how_to_get_one(site: Site) -> None:
    async with Client(site.url) as client:
        with pytest.raises(BadConfiguration, match="no outbox") as caught:
            await client.enqueue(CHANNEL, 1)
    assert "outbox=True" in caught.value.next


@pytest.mark.parametrize(
    ("channel", "data", "error"),
    [
        ("Not A Channel", 1, InvalidChannel),
        (CHANNEL, msgspec.Raw(b"{nope"), InvalidData),
        (CHANNEL, msgspec.Raw(b"[" * 65 + b"]" * 65), InvalidData),
        (CHANNEL, "x" * 1_100_000, PayloadTooLarge),
    ],
)
async def test_what_no_hub_would_take_is_refused_at_once(
    site: Site, channel: str, data: Any, error: type[ClawError]
) -> None:
    async with site.client() as client:
        with pytest.raises(error):
            await client.enqueue(channel, data)
    assert site.store().totals().waiting == 0


async def test_a_full_outbox_is_told_and_keeps_what_it_has(site: Site) -> None:
    async with site.client(entries_max=3) as client:
        for number in range(3):
            await client.enqueue(CHANNEL, number)
        with pytest.raises(OutboxFull, match="3 events") as caught:
            await client.enqueue(CHANNEL, 3)
        assert caught.value.retryable
        assert caught.value.facts["limit_entries"] == 3
    assert site.store().totals().waiting == 3


async def test_bytes_are_capped_too_and_of_those_at_once_some_find_room(site: Site) -> None:
    async with site.client(bytes_max=5_000) as client:
        outcomes = await asyncio.gather(
            *(client.enqueue(CHANNEL, "x" * 1_000) for _ in range(10)), return_exceptions=True
        )
    kept = [one for one in outcomes if isinstance(one, Enqueued)]
    assert len(kept) == 4
    assert all(isinstance(one, OutboxFull) for one in outcomes if one not in kept)
    assert site.store().totals().waiting == 4


async def test_an_outbox_of_another_hub_is_refused(site: Site) -> None:
    async with site.client() as client:
        await client.enqueue(CHANNEL, 1)
    with pytest.raises(BadConfiguration, match=r"not for http://127\.0\.0\.1:1"):
        async with Client("http://127.0.0.1:1", "claw_x", outbox=site.path):
            pass


async def test_no_account_sends_what_another_enqueued(site: Site) -> None:
    told: list[Refusal] = []
    await site.known("alice", "bob")
    async with site.client("alice") as client:
        await client.enqueue(CHANNEL, "of alice")
    async with site.hub(), site.client("alice") as client:
        assert await client.outbox.flush(20) == 0
    async with site.client("alice") as client:
        await client.enqueue(CHANNEL, "of alice, later")
    async with site.client("bob", on_refused=told.append) as client:
        # Nobody can tell yet that bob's token is not one more of alice's.
        await client.enqueue(CHANNEL, "of bob")
        async with site.hub():
            with pytest.raises(BadConfiguration, match=r"belongs to the account main/alice"):
                await client.outbox.flush(20)
            with pytest.raises(BadConfiguration, match=r"that of main/bob"):
                await client.enqueue(CHANNEL, "of bob, again")
            assert await site.stored() == ["of alice"]
    assert [each.dedupe_key for each in told] == [r.dedupe_key for r in site.store().refused()]
    assert [each.code for each in told] == ["bad_configuration"]
    async with site.hub(), site.client("alice") as client:
        assert await client.outbox.flush(20) == 0
        assert await site.stored() == ["of alice", "of alice, later"]


async def test_events_of_a_token_that_nobody_shows_any_more_wait_for_its_account(
    site: Site,
) -> None:
    async with site.client("lost") as client:
        await client.enqueue(CHANNEL, "of whom?")
    async with site.hub(), site.client("alice") as client:
        await client.enqueue(CHANNEL, "of alice")
        assert await client.outbox.flush(20) == 0
        assert await site.stored() == ["of alice"]
    assert site.store().totals().waiting == 1


async def test_a_closed_outbox_takes_nothing(site: Site) -> None:
    client = site.client()
    async with client:
        pass
    with pytest.raises(BadConfiguration, match="closed"):
        await client.enqueue(CHANNEL, 1)


async def test_an_outbox_belongs_to_one_client(site: Site) -> None:
    outbox = Outbox(site.path)
    async with site.client(outbox=outbox):
        with pytest.raises(BadConfiguration, match="another client"):
            site.client(outbox=outbox)


async def test_a_damaged_file_is_put_aside_and_said_in_one_sentence(site: Site) -> None:
    async with site.client() as client:
        for number in range(100):
            await client.enqueue(CHANNEL, {"number": number, "pad": "p" * 500})
    raw = bytearray(site.path.read_bytes())
    for page in range(1, len(raw) // 4_096):
        raw[page * 4_096 : page * 4_096 + 200] = os.urandom(200)
    site.path.write_bytes(raw)
    with pytest.raises(StorageCorrupt, match="is damaged") as caught:
        async with site.client():
            pass
    aside = site.path.with_name("outbox.db.damaged-1")
    assert caught.value.facts["kept_as"] == str(aside)
    assert aside.read_bytes() == bytes(raw)
    assert "\n" not in caught.value.message
    async with site.client() as client:
        await client.enqueue(CHANNEL, "anew")
        assert client.outbox.pending == 1


async def test_what_is_no_database_is_put_aside_too(site: Site) -> None:
    for number in (1, 2):
        site.path.write_bytes(b"my diary" * 1_000)
        with pytest.raises(StorageCorrupt):
            async with site.client():
                pass
        aside = site.path.with_name(f"outbox.db.damaged-{number}")
        assert aside.read_bytes() == b"my diary" * 1_000


async def test_an_event_that_the_disk_changed_is_not_sent(site: Site) -> None:
    await site.known()
    async with site.client() as client:
        await client.enqueue(CHANNEL, "the bytes of this one will change")
        await client.enqueue(CHANNEL, "this one is sound")
    raw = site.path.read_bytes()
    assert raw.count(b"the bytes") == 1
    site.path.write_bytes(raw.replace(b"the bytes", b"tHe bYtes"))
    async with site.hub(), site.client() as client:
        assert await client.outbox.flush(20) == 0
        assert await site.stored() == ["this one is sound"]
        [refusal] = await client.outbox.refused()
    assert refusal.code == "storage_corrupt"


async def test_a_folder_that_cannot_be_made_is_one_sentence(site: Site) -> None:
    site.path.write_text("a file")
    with pytest.raises(BadConfiguration, match="cannot be made"):
        async with Client(site.url, "claw_t", outbox=site.path / "below" / "x.db"):
            pass


def test_only_this_user_may_read_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(site.folder / "state"))
    path = default_path(site.url, "claw_t")
    assert path.parent == site.folder / "state" / "clawnet" / "outbox"
    Store(path, site.url).close()
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert default_path(site.url, "claw_u") != path != default_path("http://x:1", "claw_t")
    assert "claw_t" not in str(path)


# --- what has to arrive -----------------------------------------------------------


async def test_what_was_enqueued_without_a_hub_arrives_in_order_when_it_comes(site: Site) -> None:
    sent: list[tuple[Enqueued, Published]] = []
    await site.known()
    async with site.client() as client:
        kept = [await client.enqueue(CHANNEL, number) for number in range(30)]
    assert len({one.dedupe_key for one in kept}) == 30

    def note(one: Enqueued, place: Published) -> None:
        sent.append((one, place))

    async with site.client(on_sent=note) as client:
        assert client.outbox.pending == 30
        kept.append(await client.enqueue(CHANNEL, 30))
        await until(lambda: client.outbox.trouble is not None)
        async with site.hub():
            assert await client.outbox.flush(20) == 0
            assert await site.stored() == list(range(31))
            assert client.outbox.trouble is None
            assert client.outbox.pending == 0
    assert [one for one, _ in sent] == kept
    assert [place.offset for _, place in sent] == list(range(1, 32))


async def test_all_members_of_a_publish_come_along(site: Site) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with site.hub(), site.client() as client:
        data = msgspec.Raw(b'{ "number": 1.50e0 }')
        members = {"type": "x.a", "correlation_id": "c", "causation_id": "evt_1"}
        kept = await client.enqueue(
            CHANNEL, data, dedupe_key="mine", traceparent=trace, reply_within_s=60, **members
        )
        assert kept.dedupe_key == "mine"
        assert await client.outbox.flush(20) == 0
        [event] = (await client.history(CHANNEL, since=0)).events
    assert event.type == "x.a"
    assert event.dedupe_key == "mine"
    assert (event.correlation_id, event.causation_id) == ("c", "evt_1")
    assert bytes(event.data) == bytes(data)
    assert event.expect is not None
    assert event.expect.reply_within_s == 60
    assert event.traceparent is not None
    assert event.traceparent.startswith("00-0af7651916cd43dd8448eb211c80319c")


async def test_what_is_sent_twice_is_stored_once(site: Site) -> None:
    await site.known()
    async with site.client() as client:
        for number in range(5):
            await client.enqueue(CHANNEL, number)
    before = site.path.read_bytes()
    async with site.hub(), site.client() as client:
        assert await client.outbox.flush(20) == 0
    # As after a crash between the hub's answer and the removal here.
    for suffix in ("", "-wal", "-shm"):
        site.path.with_name(f"outbox.db{suffix}").unlink(missing_ok=True)
    site.path.write_bytes(before)
    async with site.hub(), site.client() as client:
        await client.enqueue(CHANNEL, 5)
        assert await client.outbox.flush(20) == 0
        assert await site.stored() == list(range(6))


async def test_a_refused_event_is_told_and_does_not_hold_up_what_is_behind_it(site: Site) -> None:
    told: list[Refusal] = []
    await site.known("alice", "bob")
    async with site.client(on_refused=told.append) as client:
        for number in range(3):
            await client.enqueue(CHANNEL, number)
            await client.enqueue("agent.bob.notes", number)
        await client.enqueue(CHANNEL, "no such type", type="chat.nonsense")
        await client.enqueue(CHANNEL, "x" * 70_000)
        await client.enqueue(CHANNEL, "one", dedupe_key="k")
        await client.enqueue(CHANNEL, "other", dedupe_key="k")
        await client.enqueue(CHANNEL, "last")
        async with site.hub():
            assert await client.outbox.flush(20) == 0
            assert await site.stored() == [0, 1, 2, "one", "last"]
        codes = [refusal.code for refusal in told]
        assert codes.count("forbidden") == 3
        assert codes[3:] == ["invalid_type", "payload_too_large", "dedupe_conflict"]
        assert [*await client.outbox.refused()] == told
        assert await client.outbox.clear_refused([told[0].id, 999]) == 1
        assert await client.outbox.clear_refused() == 5
        assert await client.outbox.refused() == []


async def test_refused_events_count_until_they_are_cleared(site: Site) -> None:
    async with site.hub("alice", "bob"), site.client(entries_max=2) as client:
        for _ in range(2):
            await client.enqueue("agent.bob.notes", 1)
        assert await client.outbox.flush(20) == 0
        with pytest.raises(OutboxFull, match="2 of them refused"):
            await client.enqueue(CHANNEL, 1)
        await client.outbox.clear_refused()
        await client.enqueue(CHANNEL, 1)
        assert await client.outbox.flush(20) == 0


async def test_a_failing_callback_stops_nothing(site: Site) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("mine")

    async with site.hub("alice", "bob"), site.client(on_sent=fail, on_refused=fail) as client:
        await client.enqueue("agent.bob.notes", 1)
        await client.enqueue(CHANNEL, 1)
        assert await client.outbox.flush(20) == 0
        assert await site.stored() == [1]


async def test_a_token_that_is_not_valid_loses_nothing(site: Site) -> None:
    async with site.client("nobody") as client:
        await client.enqueue(CHANNEL, 1)
        async with site.hub():
            with pytest.raises(Unauthenticated):
                await client.outbox.flush(20)
        assert await client.outbox.refused() == []
    assert site.store().totals().waiting == 1


async def test_several_clients_on_one_file_keep_the_order_and_one_sends(site: Site) -> None:
    await site.known()
    async with site.client() as one, site.client() as two:
        for number in range(40):
            await (one, two)[number % 2].enqueue(CHANNEL, number)
        async with site.hub():
            assert sum(await asyncio.gather(one.outbox.flush(20), two.outbox.flush(20))) == 0
            assert await site.stored() == list(range(40))


async def test_another_takes_over_when_the_sender_is_gone(site: Site) -> None:
    await site.known()
    async with site.client() as two:
        async with site.client() as one:
            await one.enqueue(CHANNEL, 0)
            await until(lambda: one.outbox.trouble is not None)
            await two.enqueue(CHANNEL, 1)
        async with site.hub():
            assert await two.outbox.flush(20) == 0
            assert await site.stored() == [0, 1]


async def test_a_sender_whose_token_was_revoked_makes_room_for_another(site: Site) -> None:
    async with site.hub() as running:
        ending = await running.new_token("alice")
        site.tokens |= {"alice": ending.token, "alice, later": await running.token("alice")}
        async with site.client() as stuck, site.client("alice, later") as good:
            await stuck.enqueue(CHANNEL, 0)
            assert await stuck.outbox.flush(20) == 0
            await stuck.enqueue(CHANNEL, 1)
            await running.hub.call(RevokeToken(id=ending.id), caller=HUB)
            with pytest.raises(Unauthenticated):
                await stuck.outbox.flush(20)
            await good.enqueue(CHANNEL, 2)
            trying = asyncio.create_task(flush_for_ever(stuck))
            assert await good.outbox.flush(10) == 0
            trying.cancel()
        assert await site.stored(account="alice, later") == [0, 1, 2]


async def test_another_accounts_client_does_not_keep_the_sending_to_itself(site: Site) -> None:
    async with site.hub("alice", "bob"), site.client("alice") as alice:
        await alice.enqueue(CHANNEL, 0)
        assert await alice.outbox.flush(20) == 0
        async with site.client("bob") as bob:
            await bob.enqueue(CHANNEL, "of bob")
            with pytest.raises(BadConfiguration, match="belongs to the account main/alice"):
                await bob.outbox.flush(20)
            await alice.enqueue(CHANNEL, 1)
            assert await alice.outbox.flush(10) == 0
        assert await site.stored() == [0, 1]


async def test_the_hub_is_told_apart_from_what_else_answers(site: Site) -> None:
    """A proxy's 403 says nothing about an event."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 No\r\nContent-Length: 4\r\nConnection: close\r\n\r\nPay!")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", site.port)
    async with server, site.client() as client:
        await client.enqueue(CHANNEL, 1)
        with pytest.raises(UnexpectedAnswer, match="403"):
            await client.outbox.flush(20)
        assert await client.outbox.refused() == []
        assert client.outbox.pending == 1
