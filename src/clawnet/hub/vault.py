"""Loads the directory from the state, and knows tokens by their keyed hash."""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode

import msgspec

from clawnet.core.callers import Caller
from clawnet.core.errors import Unauthenticated
from clawnet.core.units import Put
from clawnet.hub.directory import (
    Account,
    BlockRecord,
    Directory,
    GrantRecord,
    LockRecord,
    Token,
)
from clawnet.ports.clock import Randomness
from clawnet.ports.log import State

TOKEN_PREFIX = "claw_"
"""Lets secret scanners and people recognise a token."""


class Vault:
    """Tokens are 256 random bits; only HMAC-SHA256(pepper, token) is stored."""

    def __init__(self, directory: Directory, *, pepper: bytes, randomness: Randomness) -> None:
        self._directory = directory
        self._pepper = pepper
        self._randomness = randomness

    def load(self, state: State) -> None:
        """Fill the directory from the stored state."""
        directory = self._directory
        for entry in state.scan("account"):
            directory.put_account(msgspec.json.decode(entry.value, type=Account))
        for entry in state.scan("token"):
            directory.put_token(msgspec.json.decode(entry.value, type=Token))
        for entry in state.scan("grant"):
            directory.put_grant(msgspec.json.decode(entry.value, type=GrantRecord))
        for entry in state.scan("block"):
            directory.put_block(msgspec.json.decode(entry.value, type=BlockRecord))
        for entry in state.scan("lock"):
            directory.put_lock(msgspec.json.decode(entry.value, type=LockRecord))

    def new_token(self) -> tuple[str, str]:
        """A new token and its hash."""
        secret = urlsafe_b64encode(self._randomness.token_bytes(32)).rstrip(b"=").decode()
        token = TOKEN_PREFIX + secret
        return token, self.hash(token)

    def new_id(self) -> str:
        """A short random id for a token."""
        return "tok_" + self._randomness.token_bytes(8).hex()

    def hash(self, token: str) -> str:
        return hmac.digest(self._pepper, token.encode("utf-8", "surrogatepass"), "sha256").hex()

    def authenticate(self, token: str, *, now_ms: int) -> Caller:
        """The caller of a token. Raises Unauthenticated with one sentence for every cause."""
        caller = self._directory.caller_by_hash(self.hash(token))
        if caller is None:
            raise Unauthenticated("The token is not valid.")
        if caller.expires_ms is not None and caller.expires_ms <= now_ms:
            raise Unauthenticated("The token has expired.")
        return caller


def put(kind: str, key: str, record: object, *, if_revision: int | None = None) -> Put:
    """The change that stores a record as JSON under `kind/key`."""
    return Put(f"{kind}/{key}", msgspec.json.encode(record).decode(), if_revision)
