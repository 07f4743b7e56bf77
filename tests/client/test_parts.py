"""The client's pure parts: addresses, errors, waits, positions, frames."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawnet.client.address import check_token, parse_address
from clawnet.client.backoff import Backoff
from clawnet.client.consumer import Consumer
from clawnet.client.errors import (
    HubUnreachable,
    UnexpectedAnswer,
    from_answer,
    from_members,
    parse_retry_after,
)
from clawnet.client.position import Position
from clawnet.client.retry import Retry
from clawnet.client.wire import decode_frame, error_of_close
from clawnet.core.calls.consumers import ConsumerInfo, CreateConsumer, Fetched
from clawnet.core.calls.reading import Gap
from clawnet.core.errors import (
    ERRORS,
    BadConfiguration,
    ClawError,
    Forbidden,
    RateLimited,
    Unauthenticated,
    Unavailable,
)
from clawnet.core.events import Actor, Event


# --- addresses ---------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "url", "websocket_url"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080", "ws://127.0.0.1:8080"),
        ("localhost:9", "http://localhost:9", "ws://localhost:9"),
        ("https://hub.example/", "https://hub.example:443", "wss://hub.example:443"),
        ("ws://[::1]:1/x/", "http://[::1]:1/x", "ws://[::1]:1/x"),
    ],
)
def test_an_address_has_one_spelling(text: str, url: str, websocket_url: str) -> None:
    address = parse_address(text)
    assert address.url == url
    assert address.websocket_url == f"{websocket_url}/api/v1/events/stream"
    assert parse_address(address.url) == address


@pytest.mark.parametrize(
    "text",
    ["", "http://", "ftp://a", "http://a:b", "http://a:99999", "http://u:p@a", "http://a?x",
     "http://a/#f", "http://a b", "http://a\r\nX: 1", "http://[::1", "http://ä/\x7f"],
)  # fmt: skip
def test_what_is_no_address_is_bad_configuration(text: str) -> None:
    with pytest.raises(BadConfiguration):
        parse_address(text)


@given(st.text())
def test_any_text_is_an_address_or_bad_configuration(text: str) -> None:
    try:
        parse_address(text)
    except BadConfiguration:
        pass


@pytest.mark.parametrize("token", ["", " ", "a b", "a\r\nX: 1", "ä", "a\x00"])
def test_a_token_that_no_header_can_hold_is_refused_unseen(token: str) -> None:
    with pytest.raises(BadConfiguration) as caught:
        check_token(token)
    assert "\r" not in str(caught.value)


# --- errors ------------------------------------------------------------------
@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.code)
def test_every_error_of_the_hub_comes_back_as_itself(kind: type[ClawError]) -> None:
    sent = kind("What is wrong.", next="Do this.", retry_after_s=2.5, limit=7)
    body = {**sent.as_dict(), "detail": sent.message, "title": "T", "status": kind.status}
    del body["message"]
    got = from_answer(kind.status, json.dumps(body).encode())
    assert type(got) is kind
    assert (got.message, got.next, got.retry_after_s) == ("What is wrong.", "Do this.", 2.5)
    assert got.facts == {"limit": 7}
    assert got.as_dict() == sent.as_dict()


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, Unauthenticated), (403, Forbidden), (429, RateLimited), (502, Unavailable),
     (503, Unavailable), (418, UnexpectedAnswer), (500, UnexpectedAnswer)],
)  # fmt: skip
def test_a_proxys_page_is_known_by_its_status(status: int, kind: type[ClawError]) -> None:
    assert type(from_answer(status, b"<html>")) is kind
    assert type(from_answer(status, b"[1]")) is kind


def test_a_code_of_a_newer_hub_is_kept() -> None:
    got = from_answer(403, b'{"code": "too_new", "detail": "No."}')
    assert type(got) is Forbidden
    assert got.facts["hub_code"] == "too_new"
    assert type(from_members({"code": "too_new"})) is UnexpectedAnswer


@given(st.binary(), st.integers(300, 599))
def test_any_answer_is_a_claw_error(body: bytes, status: int) -> None:
    assert isinstance(from_answer(status, body), ClawError)


@given(st.dictionaries(st.text(), st.none() | st.text() | st.integers() | st.floats()))
def test_any_members_are_a_claw_error(members: dict[str, object]) -> None:
    assert isinstance(from_members(members), ClawError)


def test_retry_after_is_seconds() -> None:
    assert parse_retry_after("3") == 3
    for text in (None, "", "-1", "nan", "inf", "Wed, 21 Oct 2026 07:28:00 GMT", "1e9"):
        assert parse_retry_after(text) is None


# --- waits -------------------------------------------------------------------
def test_waits_double_up_to_a_bound() -> None:
    backoff = Backoff(first_s=0.1, most_s=1.0, random=lambda: 1.0)
    waits = [round(backoff.next_s(), 3) for _ in range(6)]
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    backoff.reset()
    assert backoff.next_s() == 0.1


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 2_000))
def test_a_wait_is_never_nothing_and_never_too_long(chance: float, attempts: int) -> None:
    backoff = Backoff(random=lambda: chance)
    for _ in range(attempts):
        backoff.next_s()
    assert 0.05 <= backoff.next_s() <= 5.0


def test_what_the_hub_asks_for_is_waited_for() -> None:
    assert Backoff(random=lambda: 0.0).next_s(7.0) >= 7.0


class Hands:
    """A clock that moves by what is slept."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds

    def now(self) -> float:
        return self.now_s

    def retry(self, within_s: float | None) -> Retry:
        return Retry(within_s, backoff=Backoff(random=lambda: 1.0), sleep=self.sleep, now=self.now)


async def test_what_is_not_retryable_is_raised_at_once() -> None:
    hands = Hands()

    async def attempt() -> None:
        raise Forbidden("No.")

    with pytest.raises(Forbidden):
        await hands.retry(None).run(attempt)
    assert hands.slept == []


async def test_a_rate_limit_is_waited_out() -> None:
    hands = Hands()
    left = [RateLimited("Slower.", retry_after_s=3.0), Unavailable("Starting.")]

    async def attempt() -> str:
        if left:
            raise left.pop(0)
        return "done"

    assert await hands.retry(60).run(attempt) == "done"
    assert hands.slept[0] >= 3.0
    assert hands.slept[1] == pytest.approx(0.2)


async def test_the_deadline_ends_it_with_the_last_failure() -> None:
    hands = Hands()
    retry = hands.retry(5.0)

    async def attempt() -> None:
        raise HubUnreachable("Gone.", is_refused=len(hands.slept) != 2)

    with pytest.raises(HubUnreachable):
        await retry.run(attempt)
    assert hands.now_s <= 5.0
    assert retry.is_unsure  # the third attempt was cut off in the middle


@pytest.mark.parametrize("within_s", [0.3, 5.0, 30.0])
async def test_the_whole_time_is_used(within_s: float) -> None:
    hands = Hands()

    async def attempt() -> None:
        raise HubUnreachable("Gone.")

    with pytest.raises(HubUnreachable):
        await hands.retry(within_s).run(attempt)
    # The last attempt is so early that it may be answered, and no earlier.
    assert max(within_s / 2, within_s - 1.0) <= hands.now_s < within_s


async def test_no_attempt_comes_before_the_time_that_the_hub_asked_for() -> None:
    hands = Hands()

    async def attempt() -> None:
        raise RateLimited("Slower.", retry_after_s=4.0)

    with pytest.raises(RateLimited):
        await hands.retry(10.0).run(attempt)
    assert all(slept >= 4.0 for slept in hands.slept) and hands.now_s <= 10.0


# --- positions ---------------------------------------------------------------
def event(offset: int, *, channel: str = "public.a", epoch: str = "e.1", seq: int = 0) -> Event:
    return Event(
        seq=seq or offset, channel=channel, offset=offset, epoch=epoch, id=f"evt_{offset}",
        ts="2026-01-01T00:00:00.000Z", type="x.y", version="1.0.0", source="agent",
        actor=Actor(id="a", handle="a"), world="main", data=msgspec.Raw(b"1"),
    )  # fmt: skip


def test_it_resumes_where_it_began_until_something_came() -> None:
    position = Position(["public.a"], None, now_s=0)
    assert position.resume(now_s=0) is None
    position.begun("e-7")
    assert position.resume(now_s=99) == "e-7"


def test_the_beginning_of_a_replay_is_not_its_end() -> None:
    position = Position(["public.a"], "all", now_s=0)
    position.begun("e-7")
    assert position.resume(now_s=0) == "all"


def test_it_resumes_behind_the_last_event() -> None:
    position = Position(["public.a"], "all", now_s=0)
    assert position.admits(event(1), "e-1")
    assert position.resume(now_s=0) == "e-1"


def test_what_was_handed_over_is_not_handed_over_again() -> None:
    position = Position(["public.a"], None, now_s=0)
    assert position.admits(event(5), None)
    assert not position.admits(event(5), None)
    assert not position.admits(event(4), None)
    assert position.admits(event(4, channel="public.b"), None)
    assert position.admits(event(6), None)


def test_offsets_of_another_epoch_are_new() -> None:
    position = Position(["public.a"], None, now_s=0)
    assert position.admits(event(5), None)
    assert position.admits(event(3, epoch="f.1"), None)


def test_a_duration_grows_with_the_time_that_passed() -> None:
    position = Position(["public.>"], "10m", now_s=100)
    assert position.resume(now_s=400) == "900000ms"


def test_without_cursors_it_resumes_by_offsets() -> None:
    position = Position(["public.a", "public.b"], {"public.a": 3}, now_s=0)
    position.admits(event(4), None)
    assert position.resume(now_s=0) == {"public.a": 4}


# --- frames ------------------------------------------------------------------
def test_unknown_members_of_a_frame_are_passed_over() -> None:
    assert decode_frame('{"type":"pong","new":1}').type == "pong"


@given(st.binary() | st.text())
def test_a_frame_can_be_read_or_is_an_unexpected_answer(frame: str | bytes) -> None:
    try:
        decode_frame(frame)
    except UnexpectedAnswer:
        pass


def test_close_codes_say_whether_to_come_back() -> None:
    for code in (None, 1000, 1001, 1006, 1011, 1012, 1013, 3008):
        assert error_of_close(code, "") is None
    assert isinstance(error_of_close(4401, "expired"), Unauthenticated)
    assert isinstance(error_of_close(4403, "revoked"), Forbidden)
    assert isinstance(error_of_close(4499, ""), UnexpectedAnswer)
    assert isinstance(error_of_close(1002, ""), UnexpectedAnswer)


# --- consumers ---------------------------------------------------------------
async def test_a_consumers_gap_that_comes_again_is_told_once() -> None:
    first = Gap(channel="public.a", first=1, last=3, oldest=4)
    second = Gap(channel="public.b", first=1, last=1, oldest=2)
    answers = [[first], [first], [first, second], [], [first]]
    info = ConsumerInfo(
        name="c",
        channels=["public.>"],
        ack_wait_s=1,
        max_attempts=1,
        floor="e-0",
        in_flight=0,
        lag=0,
    )

    class Hands:
        async def request(self, method: str, path: str, *_: Any, **__: Any) -> Any:
            if not path.endswith("/fetch"):
                return info
            gaps = answers.pop(0)
            return Fetched(deliveries=[], lag=0, gap=gaps[0] if gaps else None, gaps=gaps)

    told: list[Gap] = []
    request = CreateConsumer(name="c", channels=["public.>"])
    consumer = Consumer(Hands(), request, on_gap=told.append)  # type: ignore[arg-type]
    for expected in ([first], [first], [first, second], [first, second], [first, second, first]):
        await consumer.fetch()
        assert told == expected
