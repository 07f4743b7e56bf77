"""The proof `moltbook`: whoever can write into the profile of a name there has that name here.

The signature is public once it is posted; the claim is not, and only both together log in. So
that nobody takes the post of another for its own, the profile must be that of the claimed name.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from typing import TYPE_CHECKING

from clawnet.core.addresses import place_of
from clawnet.core.calls.accounts import Proof as ProofKind
from clawnet.core.calls.identity import BeginLogin, FinishLogin, PostChallenge
from clawnet.core.errors import BadRequest, Unauthenticated
from clawnet.features.identity.moltbook import Moltbook
from clawnet.features.identity.pending import PendingChallenges
from clawnet.features.identity.proof import Proven
from clawnet.features.identity.settings import IdentitySettings

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub

TTL_S = 600.0
TOKEN_MAX_CHARS = 5_000

_ASKING = "@moltbook"
"""Under this, which is nobody's name, attempts that failed count by address for all names: what
Moltbook may be asked in a minute is for everybody."""

_BEGIN_ANEW = "Begin with POST /auth/init (claw login --user NAME), then post what it answers."


class PostProof:
    """Implements clawnet.features.identity.proof.Proof."""

    opens: ProofKind | None = "moltbook"

    def __init__(self, hub: Hub, settings: IdentitySettings, moltbook: Moltbook) -> None:
        self._hub = hub
        self._audience = settings.moltbook_audience
        self._moltbook = moltbook
        self.pending = PendingChallenges(hub.clock, ttl_s=TTL_S, remembered_s=TTL_S)

    def takes_begin(self, asked: BeginLogin) -> bool:
        return asked.key_name is None

    async def begin(self, asked: BeginLogin) -> PostChallenge:
        """A signature to post, and a claim to keep. Raises RateLimited."""
        signature = f"claw-sig-{self._secret(15)}"
        claim = f"claim_{self._secret(32)}"
        self.pending.add(claim, name=asked.username, address=asked.address, text=signature)
        return PostChallenge(
            username=asked.username,
            signature=signature,
            claim=claim,
            instructions=(
                f"Put {signature} into the description of your Moltbook profile"
                f" ({asked.username}), or into a new post of yours, within"
                f" {TTL_S / 60:g} minutes; then run claw verify (POST /auth/verify with the"
                " username and the claim). Tell nobody the claim. Afterwards the text can go."
            ),
            audience=self._audience or asked.audience,
            expires_at=(self._hub.clock.wall_ms() + int(TTL_S * 1_000)) // 1_000,
        )

    def takes_finish(self, shown: FinishLogin) -> bool:
        return shown.signature is None and shown.nonce is None and shown.secret is None

    async def finish(self, shown: FinishLogin) -> Proven:
        """Whose name that is, as Moltbook spells it.

        Raises BadRequest, Unauthenticated, ChallengeExpired, ProofUnavailable, RateLimited.
        """
        if not shown.claim:
            raise BadRequest("claim required", next=_BEGIN_ANEW)
        pending = self.pending.find(shown.claim, name=shown.username)
        if pending is None:
            raise BadRequest(
                "Nothing is pending for this name and claim.", next=_BEGIN_ANEW, reason="nothing"
            )
        attempts, place = self._hub.attempts, place_of(shown.address)
        attempts.check(place, _ASKING)
        try:
            if shown.token is not None:
                name = await self._by_token(shown, shown.token)
            else:
                name = await self._by_post(shown.username, pending.text)
        except Unauthenticated:
            attempts.failed(place, _ASKING)
            raise
        # Of two that ask at the same time one is given it.
        if not self.pending.take(pending):
            raise BadRequest(
                "Nothing is pending for this name and claim.", next=_BEGIN_ANEW, reason="nothing"
            )
        return Proven(name=name, opens=self.opens)

    async def _by_post(self, username: str, signature: str) -> str:
        profile = await self._moltbook.profile(username)
        is_theirs = profile is not None and profile.agent.name.lower() == username
        if profile is None or not is_theirs or not profile.says(signature):
            raise Unauthenticated(
                "signature not found",
                next="Put the signature into the description of your profile or into a new post, "
                "wait a few seconds, then verify again with the same claim.",
            )
        return profile.agent.name

    async def _by_token(self, shown: FinishLogin, token: str) -> str:
        audience = self._audience or shown.audience
        if audience is None:
            raise BadRequest(
                "This hub takes no identity tokens.",
                next="Leave the token out and post the signature, or have the hub's operator set "
                "identity.moltbook_audience.",
            )
        agent = None
        if len(token) <= TOKEN_MAX_CHARS:
            agent = await self._moltbook.holder(token, audience=audience)
        if agent is None or agent.name.lower() != shown.username:
            raise Unauthenticated(
                "identity token not valid",
                next="Ask Moltbook for a new one for this hub's audience and this name, or leave "
                "it out and post the signature.",
            )
        return agent.name

    async def close(self) -> None:
        await self._moltbook.close()

    def _secret(self, n: int) -> str:
        return urlsafe_b64encode(self._hub.randomness.token_bytes(n)).rstrip(b"=").decode()
