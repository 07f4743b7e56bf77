"""The proof `ssh-key`: whoever signs the challenge with a key that an account registered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clawnet.core.calls.accounts import Proof as ProofKind
from clawnet.core.calls.identity import BeginLogin, FinishLogin, KeyChallenge
from clawnet.core.errors import BadRequest, ChallengeExpired, NotFound, Unauthenticated
from clawnet.features.identity.keys import DEFAULT_KEY, Keys
from clawnet.features.identity.pending import PendingChallenges
from clawnet.features.identity.proof import WORLD, Proven
from clawnet.features.identity.sshsig import Malformed, is_signed

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub

NAMESPACE = "claw.events"
TTL_S = 120.0

_BEGIN_ANEW = "Ask for a new challenge (POST /auth/agent/init) and sign its message."


class KeyProof:
    """Implements clawnet.features.identity.proof.Proof. Opens accounts and makes none."""

    opens: ProofKind | None = None

    def __init__(self, hub: Hub, keys: Keys) -> None:
        self._hub = hub
        self._keys = keys
        self.pending = PendingChallenges(hub.clock, ttl_s=TTL_S)

    def takes_begin(self, asked: BeginLogin) -> bool:
        # Who names no key may mean another proof, unless there is the key that is usual.
        is_named = asked.key_name is not None
        return is_named or self._keys.find(WORLD, asked.username, DEFAULT_KEY) is not None

    async def begin(self, asked: BeginLogin) -> KeyChallenge:
        """A message to sign. Raises NotFound, RateLimited."""
        key_name = asked.key_name or DEFAULT_KEY
        if self._keys.find(WORLD, asked.username, key_name) is None:
            raise NotFound(
                "public key not found",
                next="Register the key while you are logged in (POST /auth/keys), or name another.",
            )
        nonce = self._hub.randomness.token_bytes(24).hex()
        now_s = self._hub.clock.wall_ms() // 1_000
        lines = (
            "claw.events login",
            f"username:{asked.username}",
            f"key:{key_name}",
            f"nonce:{nonce}",
            f"ts:{now_s}",
        )
        message = "\n".join(lines)
        name = _waits_as(asked.username, key_name)
        self.pending.add(nonce, name=name, address=asked.address, text=message)
        return KeyChallenge(
            username=asked.username,
            key_name=key_name,
            nonce=nonce,
            issued_at=now_s,
            message=message,
            namespace=NAMESPACE,
            expires_at=now_s + int(TTL_S),
        )

    def takes_finish(self, shown: FinishLogin) -> bool:
        return shown.nonce is not None or shown.signature is not None

    async def finish(self, shown: FinishLogin) -> Proven:
        """Which account's key that is. Raises BadRequest, Unauthenticated."""
        if not shown.nonce or not shown.signature:
            raise BadRequest("nonce and signature required", next=_BEGIN_ANEW)
        key_name = shown.key_name or DEFAULT_KEY
        name = _waits_as(shown.username, key_name)
        try:
            pending = self.pending.find(shown.nonce, name=name)
        except ChallengeExpired:
            pending = None
        # Whether the signature is good or not: a nonce is tried once.
        if pending is None or not self.pending.take(pending):
            raise BadRequest("invalid or expired challenge", next=_BEGIN_ANEW, reason="nothing")
        key = self._keys.find(WORLD, shown.username, key_name)
        try:
            is_good = key is not None and is_signed(
                pending.text.encode(), shown.signature, key=key, namespace=NAMESPACE
            )
        except Malformed:
            is_good = False
        if not is_good:
            raise Unauthenticated(
                "signature verification failed",
                next=f"Sign the message as it is: ssh-keygen -Y sign -n {NAMESPACE} -f KEY, with "
                "the key of that name, for a new challenge.",
            )
        return Proven(name=shown.username, opens=None)

    async def close(self) -> None:
        """Nothing is open."""


def _waits_as(username: str, key_name: str) -> str:
    # A name has no dot, so no two pairs come to the same.
    return f"{username}.{key_name}"
