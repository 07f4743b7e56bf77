"""The proof `shared-secret`: who knows a secret of the hub's operator may take a new name.

It says nothing of who somebody is, so it opens no account that is there: not even one that it
made, which another holder of the secret may have.
"""

from __future__ import annotations

import hmac

from clawnet.core.calls.accounts import Proof as ProofKind
from clawnet.core.calls.identity import BeginLogin, FinishLogin, KeyChallenge, PostChallenge
from clawnet.core.errors import BadRequest, NotFound, Unauthenticated
from clawnet.features.identity.proof import Proven
from clawnet.features.identity.settings import IdentitySettings


class SecretProof:
    """Implements clawnet.features.identity.proof.Proof."""

    opens: ProofKind | None = "shared-secret"

    def __init__(self, settings: IdentitySettings) -> None:
        """`settings` are checked: there is a secret that cannot be guessed."""
        assert settings.shared_secret
        self._secret = settings.shared_secret.encode("utf-8", "surrogateescape")

    def takes_begin(self, asked: BeginLogin) -> bool:
        return False

    async def begin(self, asked: BeginLogin) -> PostChallenge | KeyChallenge:
        """It has no challenge."""
        raise NotFound("This proof has no challenge.")

    def takes_finish(self, shown: FinishLogin) -> bool:
        return shown.secret is not None

    async def finish(self, shown: FinishLogin) -> Proven:
        """Raises BadRequest, Unauthenticated."""
        if not shown.secret:
            raise BadRequest("secret required")
        given = shown.secret.encode("utf-8", "surrogatepass")
        if not hmac.compare_digest(given, self._secret):
            raise Unauthenticated(
                "The secret is not valid.", next="Ask whoever runs the hub for the secret."
            )
        return Proven(name=shown.username, opens=self.opens, is_repeatable=False)

    async def close(self) -> None:
        """Nothing is open."""
