"""Foreign users: accounts of kind `ext`, one for each subject of the tokens that an application's
own backend signs (docs/adr/0015).

Such a token is kept as a Transient behind a token of the account whose text nobody knows, its
anchor. So every rule for tokens holds for it unchanged: with the account or the anchor it is
gone, it can be revoked by its id, it expires. Its hash in the directory is that of no text, so
no door that asks for tokens of the hub ever takes it for one.
"""

from __future__ import annotations

import hashlib
import re
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.foreign import (
    ANONYMOUS_SUBJECT,
    SUBJECT_MAX_CHARS,
    AdmitAnyone,
    AdmitForeign,
    Admitted,
    MakeForeign,
)
from clawnet.core.errors import Conflict, Forbidden, Unauthenticated
from clawnet.hub.accounts import EVENTS, told_of
from clawnet.hub.directory import Account, Token, Transient
from clawnet.hub.newcomers import newcomer

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub

ACCOUNTS_MAX = 100_000
"""So many foreign users a hub knows. Who signs their tokens is trusted with them, but not with
all of the hub's memory."""
KNOWN_MAX = 50_000
"""So many tokens are kept that no session uses: many never expire. Any other is verified again
when it is next shown."""
_LOOKED_AT = 8
ANCHOR = "foreign"
"""The name of the anchors. A master that made a new one for an account would let it in again."""
SCOPES = ["events:read", "events:write"]
_WORLD = "main"
_PREFIX = "fjwt_"
_ID = re.compile(r"fjwt_(?P<subject>[0-9a-f]{32})(?P<mark>[0-9a-f]{24})\Z")
_HANDLES_TRIED = 3
_NEVER_MS = 253_402_300_799_000
"""The end of the year 9999: how long the revocation of a token without an end is kept."""


def account_id(subject: str) -> str:
    """The account of a subject. The same on every hub, and for ever."""
    return f"ext-{_hash(subject)[:32]}"


def token_id(subject: str, mark: str) -> str:
    """What a subject's token is called here, whoever wrote what it calls itself."""
    return f"{_PREFIX}{_hash(subject)[:32]}{_hash(mark)[:24]}"


class Foreign:
    """Handlers of core.calls.foreign."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._known: dict[str, None] = {}
        """Ids of tokens, those shown longest ago in front."""

    def register(self) -> None:
        hub = self._hub
        hub.directory.has_foreign_users = hub.settings.tokens.jwt_key is not None
        hub.handle(AdmitForeign, self.admit)
        hub.handle(AdmitAnyone, self.admit_anyone)
        hub.handle(MakeForeign, self.make, is_change=True)

    async def admit(self, call: AdmitForeign, caller: Caller) -> Admitted:
        """The subject's account and this token of it are known when this returns.

        Raises Unauthenticated for whom is not admitted (any more), Forbidden if there are too
        many foreign users.
        """
        _need_hub(caller)
        if call.subject == ANONYMOUS_SUBJECT:
            raise _refused()
        anchor = await self._anchor_of(call.subject)
        # From here on nothing waits: what is revoked now is either seen or ended later.
        hub, known_as = self._hub, token_id(call.subject, call.mark)
        if hub.jwts.is_revoked((known_as,)):
            raise _refused()
        token = msgspec.structs.replace(
            self._token(known_as, anchor),
            expires_ms=call.expires_ms,
            shown_until_ms=call.shown_until_ms or _NEVER_MS,
        )
        hub.jwts.register(token, in_use=self._in_use(anchor.account))
        hub.uses.marks.add(known_as)
        self._keep(known_as)
        return Admitted(token_id=known_as)

    async def admit_anyone(self, call: AdmitAnyone, caller: Caller) -> Admitted:
        """The one account of all who come without a token. Raises as admit()."""
        _need_hub(caller)
        return Admitted(token_id=(await self._anchor_of(ANONYMOUS_SUBJECT)).id)

    async def make(self, call: MakeForeign, caller: Caller) -> None:
        """Store the account together with its anchor. Raises Forbidden, Conflict."""
        _need_hub(caller)
        hub, own = self._hub, account_id(call.subject)
        if not 0 < len(call.subject) <= SUBJECT_MAX_CHARS:
            raise _refused()
        if hub.directory.account(_WORLD, own) is not None:
            # Somebody connected twice at once, or it is none of ours: _anchor_of() looks.
            return
        if len(hub.directory.foreign) >= ACCOUNTS_MAX:
            raise Forbidden(
                f"This hub knows {ACCOUNTS_MAX} foreign users and takes no more.",
                next="Have its operator delete accounts of kind ext that are no longer used.",
            )
        now_ms = hub.clock.wall_ms()
        account = Account(
            world=_WORLD,
            id=own,
            name=own,
            handle=self._handle(own),
            role="worker",
            kind="ext",
            created_ms=now_ms,
            proof="jwt",
            proved_ms=now_ms,
            subject=call.subject,
        )
        # Its text is dropped: nobody is to have it.
        new = newcomer(hub, account, name=ANCHOR, scopes=SCOPES)
        told = {**told_of(account), "subject": call.subject}
        itself = Caller(account=own)
        await hub.change(*new.puts, events=(hub.note(itself, EVENTS, "account.created", told),))
        new.arrive(hub)

    def named(self, id: str) -> Transient | None:
        """A foreign token by its id, if nobody showed it in this run; None if there is none.

        Whether there ever was one is not known, nor when it ends.
        """
        found = _ID.match(id)
        if found is None or self._hub.jwts.is_revoked((id,)):
            return None
        anchor = self._anchor(f"ext-{found['subject']}")
        return None if anchor is None else self._token(id, anchor)

    # --- inside -------------------------------------------------------------

    async def _anchor_of(self, subject: str) -> Token:
        """Raises Unauthenticated where the subject is not admitted."""
        hub, own = self._hub, account_id(subject)
        if hub.directory.account(_WORLD, own) is None:
            await hub.call(MakeForeign(subject=subject), caller=HUB)
        account = hub.directory.account(_WORLD, own)
        anchor = self._anchor(own)
        # A deleted account stays: its subject is refused from then on.
        if account is None or account.is_deleted or account.subject != subject or anchor is None:
            raise _refused()
        return anchor

    def _anchor(self, own: str) -> Token | None:
        tokens = self._hub.directory.tokens_of(_WORLD, own)
        return next((token for token in tokens if token.name == ANCHOR), None)

    def _token(self, id: str, anchor: Token) -> Transient:
        return Transient(
            id=id,
            # No text has this for its hash.
            hash=f"foreign {id}",
            world=anchor.world,
            account=anchor.account,
            name=anchor.name,
            scopes=anchor.scopes,
            created_ms=self._hub.retention.now_ms(),
            parent=anchor.id,
            shown_until_ms=_NEVER_MS,
        )

    def _handle(self, own: str) -> str:
        """Its id; another one if somebody has that for a handle already."""
        hub = self._hub
        for number in range(_HANDLES_TRIED):
            handle = own if not number else f"ext-{_hash(f'{own} {number}')[:32]}"
            try:
                hub.directory.handles.check_free(
                    _WORLD, handle, account=own, now_ms=hub.retention.now_ms()
                )
            except Conflict:
                continue
            return handle
        raise _refused()

    def _keep(self, id: str) -> None:
        """Note a token, and forget a few of the oldest if there are too many."""
        known, directory = self._known, self._hub.directory
        known.pop(id, None)
        known[id] = None
        if len(known) <= KNOWN_MAX:
            return
        for old in list(islice(known, _LOOKED_AT)):
            del known[old]
            token = directory.token(old)
            if token is not None and old in self._in_use(token.account):
                known[old] = None
            elif old != id:
                directory.forget_transient(old)

    def _in_use(self, own: str) -> set[str]:
        sessions = self._hub.sessions.get((_WORLD, own), ())
        return {s.caller.token_id for s in sessions if s.caller.token_id is not None}


def _need_hub(caller: Caller) -> None:
    if not caller.is_hub:
        raise Forbidden(
            "Only a door admits foreign users, in the hub's voice.",
            next="Connect to /connection/websocket with the foreign token.",
        )


def _refused() -> Unauthenticated:
    return Unauthenticated("The token is not valid.")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
