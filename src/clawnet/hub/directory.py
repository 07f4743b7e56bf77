"""Accounts, tokens, grants, locks and blocks in memory: the facts that rights decisions ask for.

Only this class holds them; hub.accounts, hub.tokens and hub.grants change it.
A narrowing is applied here when it is accepted, a widening after its commit.
`version` grows with every change, so a memoised decision knows that it is old.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from clawnet.core.callers import Caller
from clawnet.core.calls.accounts import Proof
from clawnet.core.channels import Channel, Kind, is_pattern, matches
from clawnet.core.errors import Unauthenticated, token_expired
from clawnet.core.rights import Access, Namespace
from clawnet.hub.handles import Claim, Handles
from clawnet.hub.settings import ChannelSettings, NamespaceSettings

_NOBODY: Mapping[str, GrantRecord] = {}


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """As stored under `account/<world>/<id>`. A deleted one stays as a tombstone.

    `proof` is how the account came to be, `proved_by` who vouches for that (see AccountInfo).
    """

    world: str
    id: str
    name: str
    handle: str
    role: str
    kind: str
    created_ms: int
    is_deleted: bool = False
    proof: Proof = "operator"
    proved_ms: int = 0
    proved_by: str | None = None
    subject: str | None = None
    """What the foreign tokens of an `ext` account call who they name; nobody else has one."""


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """As stored under `token/<id>`; the token itself only as a hash."""

    id: str
    hash: str
    world: str
    account: str
    name: str
    scopes: list[str]
    created_ms: int
    expires_ms: int | None = None


class Transient(Token, frozen=True, kw_only=True):
    """A JWT that was verified; never stored. `parent` is the opaque token behind it, `via` are
    the JWTs between the two."""

    parent: str
    via: tuple[str, ...] = ()
    shown_until_ms: int | None = None
    """Of a foreign one, until when its text is admitted; its connection may end at another time."""


class GrantRecord(msgspec.Struct, frozen=True, kw_only=True):
    """As stored under `grant/<world>/<account>/<channel>`."""

    world: str
    account: str
    channel: str
    verbs: list[str]
    from_offset: int | None
    granted_by: str
    created_ms: int


class BlockRecord(msgspec.Struct, frozen=True, kw_only=True):
    """As stored under `block/<world>/<owner>/<account>`."""

    world: str
    owner: str
    account: str


class LockRecord(msgspec.Struct, frozen=True, kw_only=True):
    """As stored under `lock/<world>/<channel>`: the owner's last word on who may read."""

    world: str
    channel: str
    is_locked: bool


class Directory:
    """The facts in memory. Implements core.rights.Facts."""

    def __init__(self, settings: ChannelSettings, *, is_loopback: bool) -> None:
        chosen = settings.anonymous_read
        self.anonymous_read = is_loopback if chosen is None else chosen
        self.anonymous_chosen = chosen is True
        self.default_read = settings.default_read == "anyone"
        self.has_foreign_users = False
        """Whether foreign tokens are admitted, so that users in free names are theirs."""
        self.foreign: set[str] = set()
        """The living accounts of foreign users; all of them are in main."""
        self.version = 0
        self.now_ms: Callable[[], int] = lambda: 0
        """The trusted time, by which tokens expire. The hub sets it."""
        self._namespaces = {
            name: namespace_from(rule) for name, rule in settings.namespaces.items()
        }
        self.handles = Handles()
        self._accounts: dict[tuple[str, str], Account] = {}
        self._living: dict[str, int] = {}
        self._tokens: dict[str, Token] = {}
        self._tokens_of: dict[tuple[str, str], dict[str, Token]] = {}
        self._by_hash: dict[str, Token] = {}
        self._transients: dict[str, Transient] = {}
        self._transients_of: dict[tuple[str, str], dict[str, Transient]] = {}
        self._callers: dict[str, Caller] = {}
        self._grants: dict[tuple[str, str], dict[str, GrantRecord]] = {}
        self._pattern_grants: dict[tuple[str, str], dict[str, GrantRecord]] = {}
        self._holders: dict[tuple[str, str], dict[str, GrantRecord]] = {}
        """The grants of exact names by channel: of a room, who is in it."""
        self._blocks: set[tuple[str, str, str]] = set()
        self._locks: dict[tuple[str, str], bool] = {}

    # --- facts for decide() -------------------------------------------------

    def has_account(self, world: str, account: str) -> bool:
        found = self._accounts.get((world, account))
        return found is not None and not found.is_deleted

    def is_blocked(self, world: str, owner: str, sender: str) -> bool:
        return (world, owner, sender) in self._blocks

    def is_unlocked(self, world: str, channel: str) -> bool:
        return self._locks.get((world, channel)) is False

    def is_locked(self, world: str, channel: str) -> bool:
        return self._locks.get((world, channel)) is True

    def granted(self, world: str, account: str, channel: str, verb: str) -> int | None:
        """The lowest offset that a grant opens (0: all), or None without a grant."""
        opened: int | None = None
        exact = self._grants.get((world, account))
        if exact is not None:
            grant = exact.get(channel)
            if grant is not None and verb in grant.verbs:
                opened = grant.from_offset or 0
        for pattern, grant in self._pattern_grants.get((world, account), {}).items():
            if verb in grant.verbs and matches(pattern, channel):
                start = grant.from_offset or 0
                opened = start if opened is None else min(opened, start)
        return opened

    def namespace(self, name: str) -> Namespace | None:
        known_as = self.namespace_name(name)
        return None if known_as is None else self._namespaces[known_as]

    def has_history(self, channel: Channel) -> bool:
        """Whether what was said there can be looked up; on the hub's own channels always."""
        if channel.kind is not Kind.FREE:
            return True
        namespace = self.namespace(channel.name)
        return namespace is None or namespace.has_history

    def namespace_name(self, name: str) -> str | None:
        """The name of a free name's declared namespace."""
        found = namespace_of(name)
        if found in self._namespaces:
            return found
        # To Centrifugo's applications a dot means nothing, so their dotted names have no namespace.
        is_without = "" in self._namespaces and ":" not in name.partition("#")[0]
        return "" if is_without else None

    # --- callers ------------------------------------------------------------

    def caller_by_hash(self, hash: str) -> Caller | None:
        """The caller of a token, or None if no such token is valid."""
        token = self._by_hash.get(hash)
        return None if token is None else self.caller(token.id)

    def caller(self, token_id: str) -> Caller | None:
        """The present state of a token's caller, or None if the token or account is gone."""
        known = self._callers.get(token_id)
        if known is not None:
            return known
        token = self.token(token_id)
        if token is None:
            return None
        account = self._accounts.get((token.world, token.account))
        if account is None or account.is_deleted:
            return None
        made = self._callers[token_id] = Caller(
            account=account.id,
            handle=account.handle,
            role=account.role,
            kind=account.kind,
            world=account.world,
            scopes=frozenset(token.scopes),
            token_id=token.id,
            expires_ms=token.expires_ms,
            subject=account.subject or "",
        )
        return made

    def refresh(self, caller: Caller) -> Caller:
        """The caller as it is now; asked after every wait. Raises Unauthenticated if it is over."""
        if caller.token_id is None:
            return caller
        now = self.caller(caller.token_id)
        if now is None:
            raise Unauthenticated("The token was revoked.")
        if now.expires_ms is not None and now.expires_ms <= self.now_ms():
            # A request may wait for a minute, and a session is swept once a second only.
            raise token_expired()
        return now.on_the_connection_of(caller)

    def until_expiry(self, caller: Caller, wait_s: float) -> float:
        """A wait, cut where the caller's token expires: nothing else would end it there."""
        if caller.expires_ms is None:
            return wait_s
        # Never 0: the loop's clock and the trusted one may differ by a little.
        return min(wait_s, max((caller.expires_ms - self.now_ms()) / 1000, 0.01))

    # --- what there is ------------------------------------------------------

    def account(self, world: str, id: str) -> Account | None:
        """An account or its tombstone."""
        return self._accounts.get((world, id))

    def accounts(self, world: str) -> list[Account]:
        """The living accounts of a world, by id."""
        found = [a for (w, _), a in self._accounts.items() if w == world and not a.is_deleted]
        return sorted(found, key=lambda account: account.id)

    def account_count(self, world: str) -> int:
        """How many accounts of a world live."""
        return self._living.get(world, 0)

    def all_accounts(self) -> list[Account]:
        """Every account of every world, tombstones too."""
        return list(self._accounts.values())

    def token(self, id: str) -> Token | None:
        """A token, or a JWT that was shown in this run (a Transient)."""
        return self._tokens.get(id) or self._transients.get(id)

    def transients_of(self, world: str, account: str) -> list[Transient]:
        """The JWTs of an account that are known, those known longest first."""
        return list(self._transients_of.get((world, account), {}).values())

    def tokens_of(self, world: str, account: str) -> list[Token]:
        """The stored tokens of an account."""
        found = self._tokens_of.get((world, account), {}).values()
        return sorted(found, key=lambda token: (token.created_ms, token.id))

    def grants_of(self, world: str, account: str) -> Iterator[GrantRecord]:
        yield from self._grants.get((world, account), {}).values()
        yield from self._pattern_grants.get((world, account), {}).values()

    def grants(self, world: str) -> Iterator[GrantRecord]:
        for table in (self._grants, self._pattern_grants):
            for (of_world, _), grants in table.items():
                if of_world == world:
                    yield from grants.values()

    def grant(self, world: str, account: str, channel: str) -> GrantRecord | None:
        return self._grant_table(channel).get((world, account), {}).get(channel)

    def members(self, world: str, channel: str) -> Mapping[str, GrantRecord]:
        """Who holds a grant of exactly this channel, by account; of a room: its members."""
        return self._holders.get((world, channel), _NOBODY)

    def blocks_of(self, world: str, owner: str) -> list[str]:
        return sorted(a for w, o, a in self._blocks if (w, o) == (world, owner))

    def unlocks_of(self, world: str, owner: str) -> list[str]:
        """The channels of an account that it has opened to all."""
        prefix = f"agent.{owner}."
        return sorted(
            name
            for (of_world, name), is_locked in self._locks.items()
            if of_world == world and not is_locked and name.startswith(prefix)
        )

    # --- changes ------------------------------------------------------------

    def put_account(self, account: Account) -> None:
        key = (account.world, account.id)
        before = self._accounts.get(key)
        named = None if before is None or before.is_deleted else before.handle
        name = None if account.is_deleted else account.handle
        self._accounts[key] = account
        was_living = before is not None and not before.is_deleted
        change = int(not account.is_deleted) - int(was_living)
        self._living[account.world] = self._living.get(account.world, 0) + change
        if account.subject is not None:
            (self.foreign.discard if account.is_deleted else self.foreign.add)(account.id)
        if before is None:
            self.handles.claim(account.world, Claim(account.id, "id", account.id))
        if name != named:
            if named is not None:
                self.handles.drop(account.world, Claim(account.id, "handle", named))
            if name is not None:
                self.handles.claim(account.world, Claim(account.id, "handle", name))
        self._forget_callers(self._tokens_of.get(key, ()))
        self._forget_callers(self._transients_of.get(key, ()))
        self.version += 1

    def put_token(self, token: Token) -> None:
        self._tokens[token.id] = token
        self._tokens_of.setdefault((token.world, token.account), {})[token.id] = token
        self._by_hash[token.hash] = token
        self._forget_callers((token.id,))
        self.version += 1

    def remove_token(self, id: str) -> Token | None:
        """Take away a token or a JWT, and every JWT that was made from it."""
        token = self.token(id)
        if token is None:
            return None
        if self._tokens.pop(id, None) is not None:
            self._by_hash.pop(token.hash, None)
            peers = self._tokens_of[(token.world, token.account)]
            del peers[id]
            if not peers:
                del self._tokens_of[(token.world, token.account)]
            self._forget_callers((id,))
        self.forget_descendants(token.world, token.account, id)
        return token

    def forget_descendants(self, world: str, account: str, id: str) -> None:
        """Drop the JWT of that id and every JWT made from that token or JWT of the account.

        It need not be known itself: those that were made from it can be, and end with it.
        """
        for one in self.transients_of(world, account):
            if id in (one.id, one.parent, *one.via):
                self.forget_transient(one.id)
        self.version += 1

    def put_transient(self, token: Transient) -> None:
        """Know a verified JWT. Nobody's rights change, so `version` stays and memos hold."""
        self.forget_transient(token.id)
        self._transients[token.id] = token
        self._transients_of.setdefault((token.world, token.account), {})[token.id] = token
        self._by_hash[token.hash] = token

    def forget_transient(self, id: str) -> None:
        """Drop a JWT from memory; if it still holds, it is verified when it is next shown."""
        token = self._transients.pop(id, None)
        if token is None:
            return
        self._by_hash.pop(token.hash, None)
        self._forget_callers((id,))
        peers = self._transients_of[(token.world, token.account)]
        del peers[id]
        if not peers:
            del self._transients_of[(token.world, token.account)]

    def expire_transients(self, *, before_ms: int) -> None:
        """Drop the JWTs that expired before then."""
        for token in list(self._transients.values()):
            if token.expires_ms is not None and token.expires_ms < before_ms:
                self.forget_transient(token.id)

    def put_grant(self, grant: GrantRecord) -> None:
        table = self._grant_table(grant.channel)
        table.setdefault((grant.world, grant.account), {})[grant.channel] = grant
        if table is self._grants:
            holders = self._holders.setdefault((grant.world, grant.channel), {})
            holders[grant.account] = grant
        self.version += 1

    def remove_grant(self, world: str, account: str, channel: str) -> None:
        table = self._grant_table(channel)
        grants = table.get((world, account))
        if grants is not None:
            grants.pop(channel, None)
            if not grants:
                del table[(world, account)]
        holders = self._holders.get((world, channel))
        if holders is not None:
            holders.pop(account, None)
            if not holders:
                del self._holders[(world, channel)]
        self.version += 1

    def put_block(self, block: BlockRecord) -> None:
        self._blocks.add((block.world, block.owner, block.account))
        self.version += 1

    def remove_block(self, world: str, owner: str, account: str) -> None:
        self._blocks.discard((world, owner, account))
        self.version += 1

    def put_lock(self, lock: LockRecord) -> None:
        self._locks[(lock.world, lock.channel)] = lock.is_locked
        self.version += 1

    def remove_lock(self, world: str, channel: str) -> None:
        self._locks.pop((world, channel), None)
        self.version += 1

    def _grant_table(self, channel: str) -> dict[tuple[str, str], dict[str, GrantRecord]]:
        return self._pattern_grants if is_pattern(channel) else self._grants

    def _forget_callers(self, token_ids: Iterable[str]) -> None:
        for token_id in list(token_ids):
            self._callers.pop(token_id, None)


def namespace_from(rule: NamespaceSettings) -> Namespace:
    """A namespace as its settings declare it."""
    return Namespace(
        publish=Access(rule.publish),
        read=Access(rule.read),
        history=Access(rule.history),
        presence=Access(rule.presence),
        is_user_limited=rule.user_limited,
        has_history=rule.history_size != 0,
        join_leave=rule.join_leave,
        force_push_join_leave=rule.force_push_join_leave,
        force_recovery=rule.force_recovery,
        is_cache=rule.recovery_mode == "cache",
        has_delta="fossil" in rule.allowed_delta_types,
    )


def namespace_of(name: str) -> str:
    """The namespace of a free name: what stands before its first `:` or `.`, else "".

    The mark of a private name is no part of it, nor are the users that a name lists.
    """
    for index, character in enumerate(name):
        if character in ":.":
            return name[name.startswith("$") : index]
        if character == "#":
            break
    return ""
