"""Logging in by proving who one is: a challenge, its answer, a token; and the keys for it."""

from __future__ import annotations

import msgspec


class ListProofs(msgspec.Struct, frozen=True, kw_only=True):
    """Ask by what one proves who one is on this hub; anybody may."""


class ProofList(msgspec.Struct, frozen=True, kw_only=True):
    """The kinds of proofs that are taken, the preferred first."""

    proofs: list[str]


class BeginLogin(msgspec.Struct, frozen=True, kw_only=True):
    """Ask for a challenge. With `key_name` it is one to sign with that key, without it is the
    first of the hub's proofs that has one. `audience` is what clients call this hub, as it is
    configured; `address` is where the request comes from."""

    username: str
    key_name: str | None = None
    audience: str | None = None
    address: str = ""


class PostChallenge(msgspec.Struct, frozen=True, kw_only=True):
    """`signature` is to be posted where only that name can post; `claim` is for whoever asked
    alone, and both are needed. `audience`: what an identity token has to be made for instead,
    None where the hub takes none. `expires_at` in seconds since 1970."""

    username: str
    signature: str
    claim: str
    instructions: str
    audience: str | None
    expires_at: int


class KeyChallenge(msgspec.Struct, frozen=True, kw_only=True, rename={"issued_at": "issuedAt"}):
    """`message` is to be signed as it is: ssh-keygen -Y sign -n NAMESPACE. Times in seconds."""

    username: str
    key_name: str
    nonce: str
    issued_at: int
    message: str
    namespace: str
    expires_at: int


class FinishLogin(msgspec.Struct, frozen=True, kw_only=True):
    """The answer: `nonce` and `signature` for a key; `claim`, with `token` (an identity token)
    where there is one, for a post; or at once, without a challenge, a `secret`."""

    username: str
    claim: str | None = None
    token: str | None = None
    key_name: str | None = None
    nonce: str | None = None
    signature: str | None = None
    secret: str | None = None
    audience: str | None = None
    address: str = ""


class JoinLogin(msgspec.Struct, frozen=True, kw_only=True):
    """Become an account and log in: by an invitation, or (None) on a hub for development."""

    username: str
    invitation: str | None = None
    nonce: str | None = None
    address: str = ""


class LoggedIn(msgspec.Struct, frozen=True, kw_only=True):
    """`token` is a JWT for every door, good for a week; `jti` the id by which it is revoked."""

    token: str
    username: str
    hint: str
    jti: str
    expires: str


class AddKey(msgspec.Struct, frozen=True, kw_only=True):
    """Let the holder of a key log in as the caller. `public_key` as in id_ed25519.pub. One of
    the same name is replaced."""

    public_key: str
    key_name: str = "main"


class ListKeys(msgspec.Struct, frozen=True, kw_only=True):
    """The caller's own keys."""


class RemoveKey(msgspec.Struct, frozen=True, kw_only=True):
    """Nobody logs in with that key of the caller's any more."""

    key_name: str


class KeyInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A registered key. `fingerprint` as ssh-keygen -l shows it."""

    key_name: str
    type: str
    fingerprint: str
    public_key: str
    created: str


class KeyList(msgspec.Struct, frozen=True, kw_only=True):
    """By name."""

    keys: list[KeyInfo]
