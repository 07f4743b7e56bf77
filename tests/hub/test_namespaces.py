"""Free names of declared namespaces: whose they are, how long they keep, and that tickets and
insecure mode open them and nothing else."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from clawnet.core.callers import Caller
from clawnet.core.calls.consumers import CreateConsumer, Fetch
from clawnet.core.calls.reading import ReadHistory
from clawnet.core.channels import RESERVED_ROOTS, Kind, parse
from clawnet.core.errors import ClawError, Forbidden, InvalidChannel, Unauthenticated
from clawnet.core.rights import Allowed, Coverage, Verb, classify, decide
from clawnet.hub.directory import Directory
from clawnet.hub.keeping import DAY_MS, Keeping
from clawnet.hub.settings import (
    ChannelSettings,
    HubSettings,
    LimitSettings,
    NamespaceSettings,
    RetentionRule,
    RetentionSettings,
    TokenSettings,
)
from clawnet.testing.hubs import HubRig, session_of

OPEN = NamespaceSettings(publish="anyone", read="anyone", history="anyone", presence="anyone")
NAMESPACES = {
    "": NamespaceSettings(read="accounts"),
    "chat": NamespaceSettings(read="accounts", publish="subscribers"),
    "open": OPEN,
    "few": NamespaceSettings(history_size=3, publish="accounts", read="accounts"),
    "short": NamespaceSettings(history_ttl_s=3_600, publish="accounts", read="accounts"),
    "none": NamespaceSettings(history_size=0, publish="accounts", read="accounts"),
    "public": OPEN,
    "agent": OPEN,
    "room": NamespaceSettings(history_size=1, history_ttl_s=1),
}
KEY = "a key of thirty-two bytes or more"


@pytest.fixture
def settings() -> HubSettings:
    return HubSettings(
        limits=LimitSettings(enabled=False),
        channels=ChannelSettings(namespaces=NAMESPACES),
        tokens=TokenSettings(jwt_key=KEY),
    )


def facts(**named: object) -> Directory:
    chosen = ChannelSettings(namespaces=NAMESPACES, **named)  # type: ignore[arg-type]
    return Directory(chosen, is_loopback=True)


# --- whose a name is ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, namespace",
    [
        ("chat:a", "chat"),
        ("chat.a", "chat"),
        ("chat:a:b.c", "chat"),
        ("chat:dialog#42,43", "chat"),
        ("$chat:secret", "chat"),
        ("chat", ""),
        ("$secret", ""),
        ("#42", ""),
        ("#john.doe@example.com", ""),
        ("dialog#42:43", ""),
        ("bare", ""),
        ("news.sport", ""),
        ("x" * 255, ""),
        ("other:a", None),
        ("$other:a", None),
        ("CHAT:a", None),
        (":a", ""),
        ("a.b:c", None),
    ],
)
def test_the_namespace_of_a_free_name(name: str, namespace: str | None) -> None:
    assert facts().namespace_name(name) == namespace


def test_without_a_default_namespace_bare_names_do_not_exist() -> None:
    bare = Directory(ChannelSettings(namespaces={"chat": OPEN}), is_loopback=True)
    for name in ("bare", "#42", "$x", "news.sport", "x:y", "chatter"):
        assert bare.namespace(name) is None, name


@pytest.mark.parametrize("name", ["a:b", "a.b", "a b", "a#b", "$a", "a*", ">", "é", "x" * 65])
def test_a_name_that_cannot_be_a_namespace_is_refused(name: str) -> None:
    settings: dict[str, object] = {"namespaces": {name: {}}}
    with pytest.raises(msgspec.ValidationError, match="cannot be a namespace"):
        msgspec.convert(settings, ChannelSettings)


# --- what opens free names opens nothing else ---------------------------------------------------

ASKED_OF_ALL = [verb for verb in Verb if verb is not Verb.DISPATCH]
"""Dispatching is asked of agent.<id>.tasks alone."""
CALLERS = [
    Caller(account="ext-1", kind="ext", rules_free=True, is_confined=True),
    Caller(account=None, is_confined=True, scopes=frozenset({"events:read"})),
    Caller(account="walt", tickets=frozenset({"$chat:secret"})),
    Caller(account="ext-2", kind="ext", subject="42"),
    Caller(account=None, scopes=frozenset({"events:read"})),
]
PART = st.text(alphabet="abcxyz0129_-$#:,.!@", max_size=12)
ROOT = st.sampled_from(sorted(RESERVED_ROOTS))
NAME = st.one_of(
    st.builds(lambda root, rest: f"{root}.{rest}", ROOT, PART),
    st.builds(lambda root, rest: f"{root}.walt.{rest}", ROOT, PART),
    st.builds(lambda a, root, b: f"{a}{root}{b}", PART, ROOT, PART),
    st.text(max_size=20),
)


@hypothesis_settings(max_examples=400, deadline=None)
@given(NAME, st.sampled_from(range(len(CALLERS))), st.sampled_from(ASKED_OF_ALL))
def test_no_option_of_a_namespace_reaches_the_hub_s_own_names(
    name: str, number: int, verb: Verb
) -> None:
    """On a reserved root a caller may what it might without tickets, options and namespaces."""
    try:
        channel = parse(name)
    except InvalidChannel:
        return
    if channel.kind is Kind.FREE:
        assert channel.name.partition(".")[0] not in RESERVED_ROOTS
        return
    caller, here = CALLERS[number], facts(anonymous_read=False)
    plain = msgspec.structs.replace(caller, tickets=frozenset(), rules_free=False, subject="")
    if caller.is_confined:
        plain = msgspec.structs.replace(plain, account=None, is_confined=False)
    bare = Directory(ChannelSettings(anonymous_read=False), is_loopback=True)
    given_ticket = msgspec.structs.replace(caller, tickets=caller.tickets | {channel.name})
    found = decide(given_ticket, verb, channel, here)
    assert isinstance(found, Allowed) is isinstance(decide(plain, verb, channel, bare), Allowed)


@pytest.mark.parametrize("pattern", ["public.>", "memory.>", "hook.*", "agent.*.public.>", ">"])
def test_a_confined_caller_follows_no_pattern(pattern: str) -> None:
    for caller in CALLERS[:2]:
        assert classify(caller, pattern) is Coverage.NONE


def test_what_loopback_opens_is_not_for_confined_callers() -> None:
    """They may come from anywhere, through a proxy too."""
    chosen = facts(anonymous_read=True)
    for caller in CALLERS[:2]:
        for verb in (Verb.READ, Verb.SUBSCRIBE, Verb.PRESENCE):
            assert not isinstance(decide(caller, verb, parse("public.a"), facts()), Allowed)
            is_open = isinstance(decide(caller, verb, parse("public.a"), chosen), Allowed)
            # Who is there is shown to accounts only.
            assert is_open == (verb is not Verb.PRESENCE)
            assert not isinstance(decide(caller, verb, parse("agent.a.b"), chosen), Allowed)
        assert not isinstance(decide(caller, Verb.PUBLISH, parse("public.a"), chosen), Allowed)


def test_an_account_is_not_the_application_s_user_of_that_name() -> None:
    here = facts()
    channel = parse("chat:dialog#42,ada")
    user = Caller(account="ext-2", kind="ext", subject="42")
    for has_foreign, who, expected in [
        (True, user, True),
        (True, Caller(account="42"), False),
        (True, Caller(account="ada"), False),
        (False, Caller(account="ada"), True),
        (False, Caller(account="adam"), False),
        (False, Caller(account=None), False),
    ]:
        here.has_foreign_users = has_foreign
        for verb in ASKED_OF_ALL:
            found = isinstance(decide(who, verb, channel, here), Allowed)
            assert found is expected, (has_foreign, who.account, verb)


# --- tickets ------------------------------------------------------------------------------------


async def test_a_ticket_opens_one_name_to_one_connection(rig: HubRig, ada: Caller) -> None:
    holder = msgspec.structs.replace(ada, tickets=frozenset({"$chat:secret"}))
    outlet = rig.connect(holder, "$chat:secret")
    await rig.publish(holder, "$chat:secret", 1)
    await rig.settle()
    assert outlet.data == [1]
    page = await rig.hub.call(ReadHistory(channel="$chat:secret"), caller=holder)
    assert page.count == 1
    for caller, name in ((ada, "$chat:secret"), (holder, "$chat:other")):
        with pytest.raises(Forbidden):
            rig.connect(caller, name)
        with pytest.raises(Forbidden):
            await rig.publish(caller, name, 2)
        with pytest.raises(Forbidden):
            await rig.hub.call(ReadHistory(channel=name), caller=caller)


async def test_a_ticket_survives_changed_rights_and_ends_when_it_is_taken(
    rig: HubRig, ada: Caller
) -> None:
    holder = msgspec.structs.replace(ada, tickets=frozenset({"$chat:secret"}))
    outlet = rig.connect(holder, "$chat:secret", "chat:a")
    rig.hub.rights_changed("main", "ada", narrowed="public.x")
    assert not outlet.told
    session = session_of(outlet)
    # Its end is the door's to time: the session is told the caller without it.
    session.caller = ada
    session.recheck(ada, narrowed="$chat:secret")
    assert len(outlet.told) == 1 and "$chat:secret" in outlet.told[0]
    await rig.publish(holder, "$chat:secret", 1)
    await rig.settle()
    assert outlet.data == []


# --- how long they keep -------------------------------------------------------------------------


async def test_a_namespace_says_how_many_events_its_channels_keep(rig: HubRig, ada: Caller) -> None:
    for name in ("few:a#x", "few.b", "short:a", "public.a"):
        await rig.fill(ada, name, 40)
    await rig.clock.pass_time(61)
    heads = rig.engine.real
    for name in ("few:a#x", "few.b"):
        head = heads.channel("main", name)
        assert head is not None and 3 <= head.last - head.first + 1 <= 4, name
    for name in ("short:a", "public.a"):
        head = heads.channel("main", name)
        assert head is not None and head.first == 1, name


async def test_a_namespace_says_how_long_its_channels_keep(rig: HubRig, ada: Caller) -> None:
    for name in ("short:a", "few:a", "public.a"):
        await rig.publish(ada, name, 1)
    # The log knows the age of its events by the thousand.
    await rig.fill(ada, "public.b", 1_024)
    for _ in range(2):
        rig.clock.advance(3_600)
        rig.hub.retention.now_ms()
    await rig.publish(ada, "short:a", 2)
    await rig.clock.pass_time(61)
    found = [rig.engine.real.channel("main", name) for name in ("short:a", "few:a", "public.a")]
    assert [head and head.first for head in found] == [2, 1, 1]


async def test_a_channel_without_a_past_delivers_as_ever(rig: HubRig, ada: Caller) -> None:
    outlet = rig.connect(ada, "none:a")
    await rig.hub.call(CreateConsumer(name="reader", channels=["none:a"], since="all"), caller=ada)
    await rig.fill(ada, "none:a", 3)
    await rig.settle()
    assert outlet.data == [1, 2, 3]
    for reverse in (False, True):
        page = await rig.hub.call(ReadHistory(channel="none:a", reverse=reverse), caller=ada)
        assert (page.count, page.body) == (0, b"")
    assert (await rig.hub.call(ReadHistory(channel="none:a"), caller=ada)).next == 3
    fetched = await rig.hub.call(Fetch(name="reader"), caller=ada)
    assert len(fetched.deliveries) == 3
    with pytest.raises(Unauthenticated):
        await rig.hub.call(ReadHistory(channel="none:a"), caller=Caller(account=None))


def test_what_is_kept_for_ever_and_what_no_namespace_says() -> None:
    here = facts()
    settings = RetentionSettings(
        keep_types=["x.kept"], rules=[RetentionRule(channels=">", age_max_days=90, events_max=50)]
    )
    keeping = Keeping(
        settings, events_max=1_000, namespaces=NAMESPACES, namespace_of=here.namespace_name
    )

    def bound(channel: str, type: str = "x.message") -> tuple[int | None, int | None]:
        found = keeping.bounds[keeping.number(channel, type)]
        assert keeping.number(channel, type) in keeping.numbers(channel)
        return found.age_max_ms, found.events_max

    assert bound("few:a") == (30 * DAY_MS, 3)
    assert bound("few:a", "x.kept") == (None, None)
    assert bound("short:a") == (3_600_000, 1_000)
    assert bound("room:team") == (1_000, 1)
    for name in ("public.few", "none:a", "chat:a", "room.team"):
        assert bound(name) == (90 * DAY_MS, 50), name
    assert keeping.ages_ms == (1_000, 3_600_000, 30 * DAY_MS, 90 * DAY_MS)


async def test_anyone_is_any_account_where_something_is_published(rig: HubRig, ada: Caller) -> None:
    await rig.publish(ada, "open:a", 1)
    for caller in (Caller(account=None), Caller(account=None, is_confined=True)):
        assert (await rig.hub.call(ReadHistory(channel="open:a"), caller=caller)).count == 1
        with pytest.raises(ClawError):
            await rig.publish(caller, "open:a", 2)
