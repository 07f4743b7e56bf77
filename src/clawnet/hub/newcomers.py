"""A new account together with its first token, to be stored in one unit with what made it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from clawnet.core.calls.invitations import Joined
from clawnet.core.times import rfc3339
from clawnet.core.units import Put
from clawnet.hub.accounts import info_of, puts_of
from clawnet.hub.directory import Account, Token
from clawnet.hub.vault import put

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub


class Newcomer(NamedTuple):
    """`text` is the token itself."""

    account: Account
    token: Token
    text: str

    @property
    def puts(self) -> tuple[Put, ...]:
        """What stores the account and its token; neither may be there."""
        return (*puts_of(self.account), self.token_put)

    @property
    def token_put(self) -> Put:
        return put("token", self.token.id, self.token, if_revision=0)

    def arrive(self, hub: Hub) -> None:
        """After the commit: the account and its token are good from now on."""
        hub.directory.put_account(self.account)
        hub.directory.put_token(self.token)

    def joined(self) -> Joined:
        """The answer to who became this account."""
        expires_ms = self.token.expires_ms
        return Joined(
            account=info_of(self.account),
            token=self.text,
            token_id=self.token.id,
            scopes=self.token.scopes,
            expires=None if expires_ms is None else rfc3339(expires_ms),
        )


def newcomer(
    hub: Hub, account: Account, *, name: str, scopes: list[str], expires_ms: int | None = None
) -> Newcomer:
    """An account with a new token. `name` is the token's."""
    text, hashed = hub.vault.new_token()
    token = Token(
        id=hub.vault.new_id(),
        hash=hashed,
        world=account.world,
        account=account.id,
        name=name,
        scopes=scopes,
        created_ms=hub.clock.wall_ms(),
        expires_ms=expires_ms,
    )
    return Newcomer(account, token, text)
