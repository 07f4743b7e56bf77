"""The caller: who asks, as the hub established it from the token. Never taken from a message."""

from __future__ import annotations

import msgspec

from clawnet.core.errors import Forbidden
from clawnet.core.events import Source, quote


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """An authenticated (or anonymous) caller.

    `account` is None for an anonymous one. `scopes` narrow what the account
    may do; `*` is all. `is_hub` marks the hub itself, which may publish where
    the table says "hub" and never reads for others.

    `subject` is what a foreign token calls who it names ("" for the hub's own accounts),
    `tickets` are free names that a subscription token opens to this one connection. Of free
    names, and of nothing else, `rules_free` may do everything (the server API, insecure mode);
    `is_confined` may do there what the namespace says and elsewhere only what needs no token.
    """

    account: str | None
    handle: str = ""
    role: str = "worker"
    kind: str = "agent"
    world: str = "main"
    scopes: frozenset[str] = frozenset({"*"})
    token_id: str | None = None
    expires_ms: int | None = None
    is_hub: bool = False
    subject: str = ""
    tickets: frozenset[str] = frozenset()
    rules_free: bool = False
    is_confined: bool = False

    def allows(self, scope: str) -> bool:
        """Whether the token's scopes cover this."""
        return "*" in self.scopes or scope in self.scopes

    def need(self, scope: str) -> None:
        """Raise Forbidden unless the token's scopes cover this."""
        if not self.allows(scope):
            raise Forbidden(
                f"This token lacks the scope {scope}.",
                next=f"Use a token with the scope {scope} (claw token create --scope {scope}).",
                reason="scope",
            )

    def on_the_connection_of(self, before: Caller) -> Caller:
        """This caller with what is not its token's or account's but its connection's."""
        if not (before.tickets or before.rules_free or before.is_confined):
            return self
        return msgspec.structs.replace(
            self,
            tickets=before.tickets,
            rules_free=before.rules_free,
            is_confined=before.is_confined,
        )

    @property
    def is_anonymous(self) -> bool:
        return self.account is None

    @property
    def user(self) -> str:
        """What Centrifugo's wire calls the user: a foreign token's subject as it came, else the
        account's id, "" for an anonymous caller."""
        return self.subject or self.account or ""

    def actor_json(self) -> str:
        """The envelope's actor."""
        return f'{{"id":"{self.account}","handle":{quote(self.handle)}}}'

    @property
    def source(self) -> Source:
        """The envelope's source."""
        if self.is_hub:
            return "system"
        if self.kind == "human":
            return "user"
        return "external" if self.kind == "ext" else "agent"


HUB = Caller(account="hub", handle="hub", role="master", kind="service", is_hub=True)
"""The hub's own voice. `hub` is a reserved id that no account can have."""

STRANGER = Caller(account=None, scopes=frozenset())
"""Who has no token and asks for one: redeems an invitation, registers. Limited by address."""
