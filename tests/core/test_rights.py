"""The table of DESIGN, cell by cell: who may publish, follow and read where."""

from __future__ import annotations

import ast
import itertools
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import clawnet
from clawnet.core.callers import HUB, Caller
from clawnet.core.channels import matches, parse
from clawnet.core.errors import Forbidden, Unauthenticated
from clawnet.core.rights import (
    Access,
    Allowed,
    Coverage,
    Denied,
    Namespace,
    Verb,
    classify,
    decide,
    is_own_word,
    may_read_event,
    require,
    uncovered,
)


class Facts:
    """What a decision may ask, as plain sets."""

    def __init__(self) -> None:
        self.anonymous_read = True
        self.default_read = False
        self.has_foreign_users = False
        self.anonymous_chosen = False
        self.accounts = {"ada", "bob", "eye", "boss"}
        self.blocked: set[tuple[str, str]] = set()
        self.unlocked: set[str] = set()
        self.locked: set[str] = set()
        self.grants: dict[tuple[str, str, str], int] = {}
        self.namespaces = {"free": Namespace(publish=Access.NOBODY, read=Access.NOBODY)}

    def has_account(self, world: str, account: str) -> bool:
        return world == "main" and account in self.accounts

    def is_blocked(self, world: str, owner: str, sender: str) -> bool:
        return (owner, sender) in self.blocked

    def is_unlocked(self, world: str, channel: str) -> bool:
        return channel in self.unlocked

    def is_locked(self, world: str, channel: str) -> bool:
        return channel in self.locked

    def granted(self, world: str, account: str, channel: str, verb: str) -> int | None:
        return self.grants.get((account, channel, verb))

    def namespace(self, name: str) -> Namespace | None:
        return self.namespaces.get(name.partition(":")[0])


ADA = Caller(account="ada")
BOB = Caller(account="bob")
EYE = Caller(account="eye", role="warden")
BOSS = Caller(account="boss", role="master")
NOBODY = Caller(account=None)
CALLERS = {"ada": ADA, "bob": BOB, "eye": EYE, "boss": BOSS, "nobody": NOBODY, "hub": HUB}
ALL = set(CALLERS)
ACCOUNTS = {"ada", "bob", "eye", "boss"}

TABLE: list[tuple[str, set[str], set[str]]] = [
    # channel, who publishes, who follows and reads (the hub publishes everywhere and reads nowhere)
    ("public.x", ACCOUNTS, ACCOUNTS | {"nobody"}),
    ("global", ACCOUNTS, ACCOUNTS | {"nobody"}),
    ("agent.ada.public.x", {"ada"}, ACCOUNTS | {"nobody"}),
    ("agent.ada.inbox", ACCOUNTS, {"ada", "eye"}),
    ("agent.gone.inbox", set(), {"eye"}),
    ("agent.ada.x", {"ada"}, {"ada", "eye"}),
    ("agent.ada.dead-letter", {"ada"}, {"ada", "eye"}),
    ("room.r", set(), {"eye"}),
    ("dm.ada.bob", {"ada", "bob"}, {"ada", "bob", "eye"}),
    ("dm.bob.gone", set(), {"bob", "eye"}),
    ("system.presence", set(), ACCOUNTS),
    ("system.timer.minute", set(), ACCOUNTS),
    ("system.accounts", set(), {"eye", "boss"}),
    ("memory.x", set(), ACCOUNTS),
    ("external.x", set(), ACCOUNTS),
    ("free:x", set(), {"eye"}),
    ("undeclared:x", set(), set()),
]


@pytest.mark.parametrize("channel, publishers, readers", TABLE, ids=[row[0] for row in TABLE])
@pytest.mark.parametrize("name", sorted(ALL))
def test_the_table(channel: str, publishers: set[str], readers: set[str], name: str) -> None:
    place, facts, caller = parse(channel), Facts(), CALLERS[name]
    may_publish = isinstance(decide(caller, Verb.PUBLISH, place, facts), Allowed)
    says_all = {"hub"} if channel != "undeclared:x" else set()
    assert may_publish is (name in publishers | says_all)
    for verb in (Verb.SUBSCRIBE, Verb.READ):
        decision = decide(caller, verb, place, facts)
        assert isinstance(decision, Allowed) is (name in readers)
        assert decision.reason


@pytest.mark.parametrize("channel", [row[0] for row in TABLE])
@pytest.mark.parametrize("caller", [ADA, EYE, BOSS], ids=["ada", "eye", "boss"])
def test_a_token_without_the_scope_may_nothing(channel: str, caller: Caller) -> None:
    place, facts = parse(channel), Facts()
    reader = Caller(account=caller.account, role=caller.role, scopes=frozenset({"events:read"}))
    writer = Caller(account=caller.account, role=caller.role, scopes=frozenset({"events:write"}))
    assert isinstance(decide(reader, Verb.PUBLISH, place, facts), Denied)
    assert isinstance(decide(writer, Verb.READ, place, facts), Denied)
    assert isinstance(decide(writer, Verb.SUBSCRIBE, place, facts), Denied)
    # Dispatching is asked of agent.<id>.tasks alone.
    for verb in set(Verb) - {Verb.DISPATCH}:
        scoped = writer if verb is Verb.PUBLISH else reader
        assert decide(scoped, verb, place, facts) == decide(caller, verb, place, facts)


def test_a_master_does_not_read_what_others_say_to_each_other() -> None:
    for channel in ("dm.ada.bob", "agent.ada.inbox", "agent.ada.x", "room.r"):
        assert isinstance(decide(BOSS, Verb.READ, parse(channel), Facts()), Denied)


def test_who_is_blocked_cannot_write_to_the_inbox() -> None:
    facts = Facts()
    facts.blocked.add(("ada", "bob"))
    assert isinstance(decide(BOB, Verb.PUBLISH, parse("agent.ada.inbox"), facts), Denied)
    assert isinstance(decide(EYE, Verb.PUBLISH, parse("agent.ada.inbox"), facts), Allowed)
    assert isinstance(decide(ADA, Verb.PUBLISH, parse("agent.bob.inbox"), facts), Allowed)


def test_a_grant_opens_reading_from_its_offset_and_nothing_else() -> None:
    facts = Facts()
    facts.grants["bob", "agent.ada.x", "read"] = 7
    decision = decide(BOB, Verb.READ, parse("agent.ada.x"), facts)
    assert isinstance(decision, Allowed) and decision.from_offset == 7
    assert isinstance(decide(BOB, Verb.READ, parse("agent.ada.y"), facts), Denied)
    assert isinstance(decide(BOB, Verb.PUBLISH, parse("agent.ada.x"), facts), Denied)
    assert isinstance(decide(BOSS, Verb.READ, parse("agent.ada.x"), facts), Denied)


def test_no_grant_lets_anybody_speak_as_an_agent() -> None:
    facts = Facts()
    for channel in ("agent.ada.x", "agent.ada.public.x", "dm.ada.boss", "system.accounts"):
        facts.grants["bob", channel, "publish"] = 0
        assert isinstance(decide(BOB, Verb.PUBLISH, parse(channel), facts), Denied)


def test_a_member_of_a_room_writes_and_reads_by_its_verbs() -> None:
    facts = Facts()
    facts.grants["bob", "room.r", "publish"] = 0
    assert isinstance(decide(BOB, Verb.PUBLISH, parse("room.r"), facts), Allowed)
    assert isinstance(decide(BOB, Verb.READ, parse("room.r"), facts), Denied)


def test_unlock_opens_and_the_lock_of_an_open_hub_closes() -> None:
    facts = Facts()
    place = parse("agent.ada.x")
    facts.unlocked.add("agent.ada.x")
    assert isinstance(decide(BOB, Verb.READ, place, facts), Allowed)
    assert isinstance(decide(NOBODY, Verb.READ, place, facts), Denied)
    facts = Facts()
    facts.default_read = True
    assert isinstance(decide(BOB, Verb.READ, place, facts), Allowed)
    assert isinstance(decide(NOBODY, Verb.READ, place, facts), Denied)
    facts.locked.add("agent.ada.x")
    assert isinstance(decide(BOB, Verb.READ, place, facts), Denied)
    assert isinstance(decide(BOB, Verb.READ, parse("agent.ada.inbox"), facts), Denied)


@pytest.mark.parametrize("world, is_on", [("main", False), ("other", True), ("other", False)])
def test_without_a_token_nothing_is_read_where_it_is_off_or_in_another_world(
    world: str, is_on: bool
) -> None:
    facts = Facts()
    facts.anonymous_read = is_on
    caller = Caller(account=None, world=world)
    assert isinstance(decide(caller, Verb.READ, parse("public.x"), facts), Denied)


@pytest.mark.parametrize("publish", [Access.NOBODY, Access.GRANTED, Access.ACCOUNTS])
@pytest.mark.parametrize("read", [a for a in Access if a is not Access.SUBSCRIBERS])
def test_a_free_name_is_as_its_namespace_says(publish: Access, read: Access) -> None:
    facts = Facts()
    facts.namespaces["free"] = Namespace(publish=publish, read=read)
    facts.grants["bob", "free:x", "publish"] = facts.grants["bob", "free:x", "read"] = 0
    place = parse("free:x")
    for caller, verb in itertools.product((ADA, BOB, NOBODY), (Verb.PUBLISH, Verb.READ)):
        access = publish if verb is Verb.PUBLISH else read
        expected = {
            Access.NOBODY: False,
            Access.GRANTED: caller is BOB,
            Access.ACCOUNTS: caller is not NOBODY,
            Access.ANYONE: True,
        }[access]
        assert isinstance(decide(caller, verb, place, facts), Allowed) is expected


def test_what_is_refused_is_forbidden_or_asks_for_a_token() -> None:
    with pytest.raises(Forbidden) as caught:
        require(BOB, Verb.READ, parse("agent.ada.x"), Facts())
    assert caught.value.facts["channel"] == "agent.ada.x"
    with pytest.raises(Unauthenticated):
        require(NOBODY, Verb.PUBLISH, parse("public.x"), Facts())
    assert require(ADA, Verb.READ, parse("agent.ada.x"), Facts()).reason == "owner"


PATTERN_PARTS = st.sampled_from(
    "public agent room dm system memory free ada bob inbox x * timer presence r".split()
)
ANY_PATTERN = st.builds(
    lambda parts, end: ".".join([*parts, *end]) or ">",
    st.lists(PATTERN_PARTS, max_size=4),
    st.sampled_from([[], [">"]]),
)


@given(ANY_PATTERN, st.sampled_from(sorted(ALL)))
def test_a_class_of_a_pattern_is_true_of_every_channel_it_covers(pattern: str, name: str) -> None:
    """Whatever else is granted, locked or declared: ALL and NONE skip the question per channel."""
    coverage = classify(CALLERS[name], pattern)
    if coverage is Coverage.PER_CHANNEL:
        return
    channels = [row[0] for row in TABLE if row[0] not in ("global", "undeclared:x")]
    channels += [
        "agent.bob.inbox",
        "agent.bob.public.y",
        "agent.bob.inbox.x",
        "public.x.y",
        "agent.ada.public.y",
    ]
    generous, strict = Facts(), Facts()
    strict.anonymous_read = False
    generous.default_read = True
    generous.namespaces["free"] = Namespace(publish=Access.ACCOUNTS, read=Access.ANYONE)
    for channel in filter(lambda channel: matches(pattern, channel), channels):
        generous.unlocked.add(channel)
        generous.grants[name, channel, "read"] = 0
        facts = generous if coverage is Coverage.NONE else strict
        decision = decide(CALLERS[name], Verb.SUBSCRIBE, parse(channel), facts)
        if CALLERS[name].account is None:
            # Without a token only exact names may be followed.
            assert coverage is Coverage.NONE
            continue
        assert isinstance(decision, Allowed) is (coverage is Coverage.ALL), channel


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("PUBLIC.Lobby", "lower case: 'public.lobby'"),
        ("foo.bar", "channels.namespaces"),
    ],
)
def test_the_advice_for_an_undeclared_name_is_not_to_ask_for_a_grant(
    name: str, advice: str
) -> None:
    for verb in Verb:
        with pytest.raises(Forbidden) as refused:
            require(ADA, verb, parse(name), Facts())
        assert advice in refused.value.next and "grant" not in refused.value.next


@pytest.mark.parametrize(
    ("caller", "verb", "channel", "advice"),
    [
        (BOB, Verb.READ, "agent.ada.diary", "claw grant YOU CHANNEL"),
        (BOB, Verb.READ, "agent.ada.inbox", "Only its owner reads an inbox; claw inbox"),
        (BOB, Verb.PUBLISH, "agent.ada.diary", "agent.bob.<topic>"),
        (BOB, Verb.PUBLISH, "agent.ada.public.news", "claw pub agent.ada.inbox"),
        (BOB, Verb.PUBLISH, "agent.nemo.inbox", "claw account list"),
        (BOB, Verb.PUBLISH, "dm.bob.nemo", "claw account list"),
        (ADA, Verb.PUBLISH, "agent.bob.inbox", "claw unblock ada"),
        (EYE, Verb.PUBLISH, "dm.ada.bob", "inbox of either"),
        (BOB, Verb.READ, "dm.ada.eye", "inbox of either"),
        (BOB, Verb.PUBLISH, "room.team", "claw room join team"),
        (BOB, Verb.READ, "room.team", "claw room join team"),
        (BOB, Verb.READ, "system.accounts", "No grant opens"),
        (BOSS, Verb.PUBLISH, "system.accounts", "public.<topic>"),
        (BOB, Verb.READ, "free:x", "channels.namespaces"),
        (BOB, Verb.READ, "team:x", "claw grant bob team:x, by a master"),
    ],
)
def test_each_refusal_says_what_leads_out_of_it(
    caller: Caller, verb: Verb, channel: str, advice: str
) -> None:
    facts = Facts()
    facts.blocked.add(("bob", "ada"))
    facts.namespaces["team"] = Namespace()
    with pytest.raises(Forbidden) as refused:
        require(caller, verb, parse(channel), facts)
    assert advice in refused.value.next
    granted = Facts()
    granted.blocked, granted.namespaces = facts.blocked, facts.namespaces
    granted.grants = {(caller.account or "", channel, one): 0 for one in ("read", "publish")}
    helps = isinstance(decide(caller, verb, parse(channel), granted), Allowed)
    says = refused.value.next
    assert ("claw grant" in says or "claw room join" in says) is helps


@pytest.mark.parametrize(
    ("caller", "pattern", "kind", "advice"),
    [
        (BOB, "agent.ada.inbox", Forbidden, "Only its owner reads an inbox"),
        (Caller(account="bob", scopes=frozenset()), "public.>", Forbidden, "--scope events:read"),
        (NOBODY, "public.>", Forbidden, "exact names"),
    ],
)
def test_a_pattern_that_covers_nothing_says_why(
    caller: Caller, pattern: str, kind: type[Forbidden], advice: str
) -> None:
    assert classify(caller, pattern) is Coverage.NONE
    refusal = uncovered(caller, pattern)
    assert isinstance(refusal, kind) and advice in refusal.next
    assert refusal.facts == {"channel": pattern}


def test_whoever_refuses_says_what_to_do_in_this_case() -> None:
    for path in sorted(Path(clawnet.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Forbidden":
                names = {keyword.arg for keyword in node.keywords}
                assert "next" in names, f"{path.name}:{node.lineno}"


def test_a_missing_scope_is_named_with_the_command_that_gives_it() -> None:
    reader = Caller(account="ada", scopes=frozenset({"events:read"}))
    with pytest.raises(Forbidden) as refused:
        require(reader, Verb.PUBLISH, parse("public.x"), Facts())
    assert "claw token create --scope events:write" in refused.value.next


def test_who_publishes_without_a_token_is_told_to_get_one() -> None:
    anonymous = Caller(account=None, scopes=frozenset({"events:read"}))
    with pytest.raises(Unauthenticated, match="Publishing needs a token"):
        require(anonymous, Verb.PUBLISH, parse("public.x"), Facts())


def test_a_direct_message_needs_two_living_accounts() -> None:
    with pytest.raises(Forbidden, match="There is no account gone"):
        require(BOB, Verb.PUBLISH, parse("dm.bob.gone"), Facts())


# --- one's own words --------------------------------------------------------------------------


def said(by: str, channel: str, *, world: str = "main", more: str = "") -> bytes:
    return (
        f'{{"seq":7,"channel":"{channel}","offset":2,"epoch":"e.1","id":"evt_1","ts":"t",'
        f'"type":"x.message","version":"1.0.0","source":"agent",'
        f'"actor":{{"id":"{by}","handle":"ada"}},"world":"{world}"{more},'
        f'"data":{{"actor":{{"id":"bob"}},"world":"main"}}}}'
    ).encode()


IMPORTED = ',"imported":{"id":"evt_0","ts":"t","epoch":"f.1","seq":1,"by":"ada"}'


def test_ones_own_word_is_the_tokens_own_account_heard_by_this_hub() -> None:
    mine = partial(is_own_word, actor_id="ada", world="main", is_imported=False)
    assert mine(ADA)
    assert mine(Caller(account="ada", scopes=frozenset({"events:read"})))
    for other in (BOB, EYE, BOSS, NOBODY, HUB, Caller(account="ada", world="other")):
        assert not mine(other)
    assert not mine(Caller(account="ada", scopes=frozenset({"events:write"})))
    assert not is_own_word(ADA, actor_id="ada", world="main", is_imported=True)
    assert not is_own_word(ADA, actor_id="ada", world="other", is_imported=False)
    assert not is_own_word(HUB, actor_id="hub", world="main", is_imported=False)
    assert not is_own_word(NOBODY, actor_id="None", world="main", is_imported=False)


@pytest.mark.parametrize("channel", ["agent.bob.inbox", "room.r", "undeclared:x", "free:x"])
def test_an_event_is_read_by_who_said_it_wherever_it_stands(channel: str) -> None:
    assert may_read_event(ADA, said("ada", channel), Facts())
    assert not may_read_event(ADA, said("ada", channel, more=IMPORTED), Facts())
    assert not may_read_event(ADA, said("adam", channel), Facts())
    assert not may_read_event(BOSS, said("ada", channel), Facts())
    assert not may_read_event(NOBODY, said("ada", channel), Facts())
    # What the sender wrote into the data is nobody's word on who spoke.
    assert may_read_event(BOB, said("ada", channel), Facts()) is (channel == "agent.bob.inbox")


def test_what_a_grant_does_not_open_is_read_only_by_who_said_it() -> None:
    facts = Facts()
    facts.grants["ada", "room.r", "read"] = facts.grants["bob", "room.r", "read"] = 3
    assert may_read_event(ADA, said("ada", "room.r"), facts)
    assert not may_read_event(BOB, said("ada", "room.r"), facts)
    facts.grants["bob", "room.r", "read"] = 2
    assert may_read_event(BOB, said("ada", "room.r"), facts)
