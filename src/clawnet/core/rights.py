"""Who may do what on which channel: one pure function, and the classification of patterns.

The table is DESIGN's. A warden reads all traffic in order to persist it; a
master administers and reads nothing more than its own account may; the hub's
own voice publishes anywhere and reads nowhere.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol

import msgspec

from clawnet.core.callers import Caller
from clawnet.core.channels import Channel, Kind, parse
from clawnet.core.errors import UNDECLARED, Forbidden, Unauthenticated
from clawnet.core.events import Actor, Imported, place_of


class Verb(Enum):
    """What may be done on a channel. SUBSCRIBE is following it live, READ is its history,
    PRESENCE is seeing who follows it. DISPATCH is giving work to the owner of
    `agent.<id>.tasks`."""

    PUBLISH = "publish"
    SUBSCRIBE = "subscribe"
    READ = "read"
    PRESENCE = "presence"
    DISPATCH = "dispatch"


class Access(Enum):
    """Whom a declared namespace admits."""

    NOBODY = "nobody"
    GRANTED = "granted"
    SUBSCRIBERS = "subscribers"
    """Who may follow the channel live."""
    ACCOUNTS = "accounts"
    ANYONE = "anyone"
    """Accounts, and for reading also callers without a token (where that is on at all)."""


class Namespace(msgspec.Struct, frozen=True, kw_only=True):
    """The rule of a family of free names: whom it admits (`read` is following live), and what
    a door offers there."""

    publish: Access = Access.GRANTED
    read: Access = Access.GRANTED
    history: Access = Access.SUBSCRIBERS
    presence: Access = Access.SUBSCRIBERS
    is_user_limited: bool = True
    has_history: bool = True
    join_leave: bool = True
    force_push_join_leave: bool = False
    force_recovery: bool = True
    is_cache: bool = False
    has_delta: bool = False


class Allowed(msgspec.Struct, frozen=True):
    """It may be done. Offsets below `from_offset` stay hidden."""

    reason: str
    from_offset: int = 0


class Denied(msgspec.Struct, frozen=True):
    """It may not be done, why, and what to do next if that is not to ask for a grant."""

    reason: str
    next: str | None = None
    is_undeclared: bool = False
    """Whether there is no such name, for nobody."""


Decision = Allowed | Denied


class Facts(Protocol):
    """What a decision needs to know; held in memory, answered at once."""

    anonymous_read: bool
    """Whether callers without a token may read what anyone may read."""
    anonymous_chosen: bool
    """Whether the operator chose that, and not that only this machine reaches the hub."""
    default_read: bool
    """Whether agent.<id>.<topic> is readable unless locked (channels.default_read = anyone)."""
    has_foreign_users: bool
    """Whether the users that free names list are those of foreign tokens."""

    def has_account(self, world: str, account: str) -> bool: ...
    def is_blocked(self, world: str, owner: str, sender: str) -> bool: ...
    def is_unlocked(self, world: str, channel: str) -> bool: ...
    def is_locked(self, world: str, channel: str) -> bool: ...

    def granted(self, world: str, account: str, channel: str, verb: str) -> int | None:
        """The lowest offset that a grant opens (0: all), or None without a grant."""

    def namespace(self, name: str) -> Namespace | None:
        """The declared namespace of a free name."""


def decide(actor: Caller, verb: Verb, channel: Channel, facts: Facts) -> Decision:
    """Whether `actor` may do `verb` on `channel`, with the reason."""
    if channel.kind is Kind.FREE and facts.namespace(channel.name) is None:
        # Such a name does not exist: not for a warden and not for the hub's own voice either.
        return _undeclared(channel.name)
    if actor.is_hub:
        if verb is Verb.PUBLISH:
            return Allowed("the hub speaks")
        return Denied("The hub does not read on behalf of others.")
    if verb is Verb.DISPATCH:
        return _decide_dispatch(actor, channel, facts)
    is_publish = verb is Verb.PUBLISH
    scope = "events:write" if is_publish else "events:read"
    if actor.account is None and is_publish:
        return Denied("Publishing needs a token.")
    if not actor.allows(scope):
        return Denied(
            f"The token lacks the scope {scope}.",
            next=f"Use a token with the scope {scope} (claw token create --scope {scope}).",
        )
    if channel.kind is Kind.FREE:
        return _decide_free(actor, verb, channel, facts)
    if actor.account is None or actor.is_confined:
        if is_publish:
            return Denied("Without a token only declared free names can be published on.")
        if verb is Verb.PRESENCE:
            return Denied("Who follows a channel of the hub is shown to its accounts only.")
        return _decide_anonymous(actor, channel, facts)
    if is_publish:
        return _decide_publish(actor, actor.account, channel, facts)
    return _decide_read(actor, actor.account, channel, facts)


def require(actor: Caller, verb: Verb, channel: Channel, facts: Facts) -> Allowed:
    """decide(), raising Forbidden (or Unauthenticated for an anonymous caller)."""
    decision = decide(actor, verb, channel, facts)
    if isinstance(decision, Allowed):
        return decision
    if actor.account is None:
        raise Unauthenticated(decision.reason, channel=channel.name)
    raise refusal(decision, channel.name)


def refusal(denied: Denied, channel: str) -> Forbidden:
    """What a denial is for whoever asked."""
    if denied.is_undeclared:
        return Forbidden(denied.reason, next=denied.next, channel=channel, reason=UNDECLARED)
    return Forbidden(denied.reason, next=denied.next, channel=channel)


class _Said(msgspec.Struct, frozen=True):
    """Of an envelope: who spoke, where, and whether this hub heard it itself."""

    actor: Actor
    world: str
    imported: Imported | None = None


_said = msgspec.json.Decoder(_Said).decode


def is_own_word(actor: Caller, *, actor_id: str, world: str, is_imported: bool) -> bool:
    """Whether an event is what `actor` itself said to this hub (docs/adr/0011).

    Such a one it may read back by its id and in a trace, wherever it stands: it said it. That
    opens nothing else, no history, subscription, consumer or export. An imported event is the
    importer's word for what was said elsewhere, and nobody's own.
    """
    if actor.account is None or actor.is_hub or is_imported or not actor.allows("events:read"):
        return False
    return (actor_id, world) == (actor.account, actor.world)


def may_read_event(actor: Caller, body: bytes, facts: Facts) -> bool:
    """Whether `actor` may read one stored event, given as its envelope, by its id or in a trace."""
    _, name, offset = place_of(body)
    decision = decide(actor, Verb.READ, parse(name), facts)
    if isinstance(decision, Allowed) and offset >= decision.from_offset:
        return True
    said = _said(body)
    return is_own_word(
        actor, actor_id=said.actor.id, world=said.world, is_imported=said.imported is not None
    )


def uncovered(actor: Caller, pattern: str) -> Forbidden:
    """The refusal of a pattern whose coverage is NONE, with what leads out of it."""
    advice = _INBOX
    if not actor.allows("events:read"):
        scope = "events:read"
        advice = f"Use a token with the scope {scope} (claw token create --scope {scope})."
    elif actor.account is None or actor.is_confined:
        advice = "Without a token only exact names can be followed; log in for patterns."
    return Forbidden(
        f"Nothing that {pattern} covers may be read by this caller.", next=advice, channel=pattern
    )


def _undeclared(name: str) -> Denied:
    """A free name that does not exist, with the name that was probably meant."""
    advice = "Use public.<topic> or agent.<your id>.<topic>, or have the hub's operator declare "
    advice += "the namespace under channels.namespaces."
    if name != name.lower():
        advice = f"Write it in lower case: {ascii(name.lower())}."
    said = f"There is no channel {ascii(name)}: its namespace is not declared."
    return Denied(said, advice, is_undeclared=True)


def _decide_anonymous(actor: Caller, channel: Channel, facts: Facts) -> Decision:
    # A confined caller may come from anywhere, so what loopback opens is not for it.
    is_open = facts.anonymous_chosen if actor.is_confined else facts.anonymous_read
    if not is_open or actor.world != "main":
        return Denied("Reading needs a token on this hub.")
    if channel.kind in (Kind.PUBLIC, Kind.AGENT_PUBLIC):
        return Allowed("public, read without a token")
    return Denied("This channel cannot be read without a token.")


def tasks_channel(account: str) -> str:
    """Where an account is given work: what is dispatched to it and what becomes of it."""
    return f"agent.{account}.tasks"


def _decide_dispatch(actor: Caller, channel: Channel, facts: Facts) -> Decision:
    owner = channel.owner
    assert owner is not None and channel.name == tasks_channel(owner), "asked of tasks channels"
    if actor.account is None or actor.is_confined or actor.kind == "ext":
        return Denied("Giving work needs an account's token.")
    if not actor.allows("tasks:write"):
        return Denied(
            "The token lacks the scope tasks:write.",
            next="Use a token with the scope tasks:write (claw token create --scope tasks:write).",
        )
    if not facts.has_account(actor.world, owner):
        return Denied(f"There is no account {owner}.", next=_NO_ACCOUNT)
    if actor.account == owner:
        return Allowed("itself")
    if actor.role == "master":
        return Allowed("a master gives work to anyone of its world")
    if facts.granted(actor.world, actor.account, channel.name, "dispatch") is not None:
        return Allowed("granted")
    return Denied(
        f"{owner} takes no work from this account.",
        next=f"Ask {owner} for: claw grant {actor.account} --dispatch.",
    )


def _decide_publish(actor: Caller, account: str, channel: Channel, facts: Facts) -> Decision:
    world = actor.world
    match channel.kind:
        case Kind.PUBLIC:
            return Allowed("any account may publish here")
        case Kind.AGENT_PUBLIC | Kind.AGENT_PRIVATE:
            if channel.owner == account:
                return Allowed("owner")
            return Denied(
                f"Only {channel.owner} may publish on {channel.name}.",
                next=f"Use a channel of your own (agent.{account}.<topic>) or public.<topic>; to "
                f"reach its owner: claw pub agent.{channel.owner}.inbox.",
            )
        case Kind.INBOX:
            owner = channel.owner or ""
            if not facts.has_account(world, owner):
                return Denied(f"There is no account {owner}.", next=_NO_ACCOUNT)
            if facts.is_blocked(world, owner, account):
                return Denied(
                    f"{owner} does not take messages from this account.",
                    next=f"Do not repeat it; only {owner} can let you in again: "
                    f"claw unblock {account}.",
                )
            return Allowed("any account may write to an inbox")
        case Kind.DM:
            peers = channel.peers or ()
            if account not in peers:
                return Denied("Only the two whose ids it names may write here.", next=_NOT_ONE)
            for peer in peers:
                if not facts.has_account(world, peer):
                    # As with an inbox: nobody would ever read it.
                    return Denied(f"There is no account {peer}.", next=_NO_ACCOUNT)
            return Allowed("one of the two")
        case Kind.ROOM:
            if facts.granted(world, account, channel.name, "publish") is not None:
                return Allowed("member")
            return Denied(
                f"Only members may write in {channel.name}.",
                next=_grant_by_a_master(account, f"{channel.name} --verb publish"),
            )
        case _:
            return Denied(
                f"Only the hub publishes on {channel.name}.",
                next=f"Use a channel of your own (agent.{account}.<topic>) or public.<topic>.",
            )


def _decide_read(actor: Caller, account: str, channel: Channel, facts: Facts) -> Decision:
    world = actor.world
    if actor.role == "warden":
        return Allowed("a warden reads all traffic")
    match channel.kind:
        case Kind.PUBLIC | Kind.AGENT_PUBLIC | Kind.SYSTEM_OPEN | Kind.FEATURE:
            return Allowed("any account of the world may read here")
        case Kind.INBOX:
            if channel.owner == account:
                return Allowed("owner")
            return Denied(f"Only {channel.owner} reads this inbox.", next=_INBOX)
        case Kind.AGENT_PRIVATE:
            return _decide_private(world, account, channel, facts)
        case Kind.DM:
            if channel.peers is not None and account in channel.peers:
                return Allowed("one of the two")
            return Denied("Only the two whose ids it names may read here.", next=_NOT_ONE)
        case Kind.ROOM:
            opened = facts.granted(world, account, channel.name, "read")
            if opened is not None:
                return Allowed("member", opened)
            return Denied(
                f"Only members may read {channel.name}.",
                next=_grant_by_a_master(account, channel.name),
            )
        case Kind.SYSTEM:
            if actor.role == "master":
                return Allowed("a master reads the system's channels")
            return Denied(
                "Only a master or a warden reads the system's channels.",
                next="No grant opens them; ask the hub's operator for what you need to know.",
            )
        case Kind.FREE:  # pragma: no cover - decide() has asked _decide_free
            raise AssertionError("free names are decided apart")


def _decide_private(world: str, account: str, channel: Channel, facts: Facts) -> Decision:
    if channel.owner == account:
        return Allowed("owner")
    opened = facts.granted(world, account, channel.name, "read")
    if opened is not None:
        return Allowed("granted", opened)
    if facts.is_unlocked(world, channel.name):
        return Allowed("unlocked by its owner")
    # Dead letters and work are what others sent to the owner, so the owner alone can open them.
    is_said = channel.name != f"agent.{channel.owner}.dead-letter" and not (
        channel.owner is not None and channel.name == tasks_channel(channel.owner)
    )
    if facts.default_read and is_said and not facts.is_locked(world, channel.name):
        return Allowed("open unless locked on this hub")
    return Denied(f"{channel.name} is private; {channel.owner} can grant it.")


def _decide_free(actor: Caller, verb: Verb, channel: Channel, facts: Facts) -> Decision:
    namespace = facts.namespace(channel.name)
    assert namespace is not None, "decide() has refused undeclared names"
    if actor.rules_free:
        return Allowed("the server API")
    if verb is not Verb.PUBLISH and actor.role == "warden":
        return Allowed("a warden reads all traffic")
    if actor.account is None and not (
        actor.world == "main" and (facts.anonymous_read or actor.is_confined)
    ):
        return Denied("Reading needs a token on this hub.")
    access = namespace.publish
    if verb is not Verb.PUBLISH:
        access = namespace.history if verb is Verb.READ else namespace.presence
        if verb is Verb.SUBSCRIBE:
            return _decide_following(actor, channel, facts, namespace)
    if access is Access.SUBSCRIBERS:
        return _decide_following(actor, channel, facts, namespace)
    return _decide_access(actor, channel, facts, access, "publish" if verb is Verb.PUBLISH else "")


def _decide_following(
    actor: Caller, channel: Channel, facts: Facts, namespace: Namespace
) -> Decision:
    name = channel.name
    if name in actor.tickets:
        return Allowed("a subscription token")
    users = named_users(name) if namespace.is_user_limited else None
    if users is not None:
        # An application's user 42 and an account that called itself 42 are not the same.
        is_meant = actor.subject != "" or not facts.has_foreign_users
        if is_meant and actor.user and actor.user in users:
            return Allowed("one of those whom the name lists")
        return Denied(
            f"{ascii(name)} is for those whom its name lists.",
            next="Show a subscription token, or use a channel that names you.",
        )
    if name.startswith("$"):
        return Denied(
            f"{ascii(name)} is opened by a subscription token only.",
            next="Have your application's backend sign one for this channel and user.",
        )
    return _decide_access(actor, channel, facts, namespace.read, "")


def _decide_access(
    actor: Caller, channel: Channel, facts: Facts, access: Access, verb: str
) -> Decision:
    if access is Access.ANYONE:
        return Allowed("the namespace is open to anyone")
    account = actor.account
    if account is None or actor.is_confined:
        return Denied("This channel cannot be used without a token.")
    if access is Access.ACCOUNTS:
        return Allowed("the namespace is open to accounts")
    if access is Access.GRANTED:
        opened = facts.granted(actor.world, account, channel.name, verb or "read")
        if opened is not None:
            return Allowed("granted", opened)
        more = f" --verb {verb}" if verb else ""
        advice = _grant_by_a_master(account, f"{channel.name}{more}")
    else:
        advice = "Nobody may; the hub's operator can open it under channels.namespaces."
    return Denied(f"{ascii(channel.name)} is not open to this account.", next=advice)


def named_users(name: str) -> frozenset[str] | None:
    """The users whom a free name like `dialog#42,43` is for; None if it lists none."""
    _, mark, users = name.rpartition("#")
    return frozenset(users.split(",")) if mark else None


_INBOX = "Only its owner reads an inbox; claw inbox shows your own."
_NOT_ONE = "Write to the inbox of either (agent.<id>.inbox), or use a channel of your own."
_NO_ACCOUNT = "Correct the id; claw account list shows who there is."


def _grant_by_a_master(account: str, rest: str) -> str:
    if rest.startswith("room."):
        name = rest.split()[0].removeprefix("room.")
        return f"Become a member: claw room join {name}; a private room needs an invitation."
    return f"Ask for: claw grant {account} {rest}, by a master."


class Coverage(Enum):
    """What is known of a pattern's rights before any channel is looked at."""

    ALL = "all"
    NONE = "none"
    PER_CHANNEL = "per_channel"


def classify(actor: Caller, pattern: str) -> Coverage:
    """How the reading of a pattern's channels is to be decided. Pure in actor and pattern.

    ALL and NONE hold whatever grants exist, so only PER_CHANNEL patterns ask
    decide() for each channel.
    """
    if actor.is_hub or actor.account is None or actor.is_confined:
        return Coverage.NONE
    if not actor.allows("events:read"):
        return Coverage.NONE
    if actor.role == "warden":
        return Coverage.ALL
    segments = pattern.split(".")
    root = segments[0]
    if root in ("public", "memory", "graph", "file", "flow", "hook", "external"):
        return Coverage.ALL
    if root == "agent" and len(segments) > 2:
        if segments[1] == actor.account or segments[2] == "public":
            return Coverage.ALL
        if segments[2] == "inbox" and len(segments) == 3 and segments[1] != "*":
            return Coverage.NONE
    return Coverage.PER_CHANNEL
