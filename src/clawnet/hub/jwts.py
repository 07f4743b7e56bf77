"""Short-lived tokens: HS256 JWTs that this hub signs, knows again and can revoke.

A JWT stands for the opaque token that it was made from (`ptk`): it has that token's account
and at most its scopes and its life, and it is gone when that token is. One that was shown and
verified is kept in the directory as a Transient, so that every rule for tokens holds for it
unchanged; nothing of it is stored but, if it is revoked, its name until it would have expired.

PyJWT computes; what is admitted is decided here and narrower than what it would take:
one header, byte for byte, so that no `alg`, `kid` or `crit` of somebody else's is ever read.
"""

from __future__ import annotations

import hmac
import logging
import re
from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from clawnet.core.callers import Caller
from clawnet.core.errors import (
    BadConfiguration,
    BadRequest,
    Forbidden,
    Unauthenticated,
    token_expired,
)
from clawnet.core.units import Delete
from clawnet.hub.directory import Directory, Transient

if TYPE_CHECKING:
    from clawnet.ports.clock import Randomness
    from clawnet.ports.log import State

ALGORITHM = "HS256"
HEADER = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"
"""{"alg":"HS256","typ":"JWT"}, the only header there is."""

KEY_MIN_BYTES = 32
"""RFC 7518, section 3.2: a key of the hash's length or more."""
_DERIVATION = b"clawnet jwt hs256 v1"

TTL_MIN_S = 10.0
TTL_S = 900.0
TTL_LONGEST_S = 86_400
LOGIN_TTL_S = 7 * 86_400
"""What a login gives (hub.tokens.log_in) lives longer than what is made from a token."""
AHEAD_MAX_MS = (LOGIN_TTL_S + TTL_LONGEST_S) * 1000
"""No JWT ends later than this: the longest there is, and a clock that was put back a little."""
ANCESTORS_MAX = 8
PER_ACCOUNT_MAX = 1_000
"""So many verified JWTs of an account are kept; of more, the oldest are verified again."""
REVOKED_PER_ACCOUNT_MAX = 10_000
REVOKED_KEPT_MORE_MS = 3_600_000
"""The trusted time of the next run may begin a little before this one's end (core.trust), so
the name of a revoked JWT outlives it by more than that."""
EXPIRED_KEPT_MORE_MS = 30_000
"""The sessions of an expired one are ended first, and told why; Centrifugo's clients have 25 s
more to show the next one."""

_SHAPE = re.compile(r"[A-Za-z0-9_-]{1,200}\.[A-Za-z0-9_-]{2,3000}\.[A-Za-z0-9_-]{43}\Z")
_JTI = re.compile(r"jwt_(?P<parent>[0-9a-f]{16})(?P<exp>[0-9a-f]{8})[0-9a-f]{16}\Z")

_log = logging.getLogger(__name__)


class Meta(msgspec.Struct, frozen=True, kw_only=True):
    """What a connection of a Centrifugo in front carries along, and shows this hub's proxies beside
    the user: which token it was (`tok`), the JWTs that it was made from (`via`), and its scopes.

    Read leniently: what another application put there means nothing here.
    """

    tok: str = ""
    scp: list[str] = []
    via: list[str] = []


class Claims(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a JWT of this hub says. `ptk` is the opaque token behind it, `via` the JWTs between."""

    iss: Literal["clawnet"]
    aud: Literal["clawnet"]
    sub: str
    world: str
    scp: list[str]
    iat: int
    exp: int
    jti: str
    ptk: str
    via: list[str] = []
    nbf: int | None = None
    meta: Meta | None = None


class RevokedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """As stored under `revoked/<jti>` until the JWT would have expired."""

    world: str
    account: str
    expires_ms: int


_claims = msgspec.json.Decoder(Claims)


class Jwts:
    """Issues and admits JWTs, and remembers which of them were revoked."""

    def __init__(
        self, directory: Directory, *, key: bytes, ttl_max_s: float, randomness: Randomness
    ) -> None:
        self._directory = directory
        self._key = key
        self._ttl_max_s = ttl_max_s
        self._randomness = randomness
        self._revoked: dict[str, RevokedRecord] = {}
        self._counts: Counter[tuple[str, str]] = Counter()
        self._jws: Any = None

    # --- making them --------------------------------------------------------

    def issue(
        self,
        caller: Caller,
        *,
        ttl_s: float | None,
        scopes: list[str] | None,
        now_ms: int,
        is_login: bool = False,
    ) -> tuple[str, Claims]:
        """A JWT for the caller's own account. Raises BadRequest, Forbidden, Unauthenticated.

        `is_login`: for as long as a login holds, whatever the hub allows others.
        """
        if is_login:
            ttl_s = LOGIN_TTL_S
        elif ttl_s is None:
            ttl_s = min(TTL_S, self._ttl_max_s)
        if not is_login and not TTL_MIN_S <= ttl_s <= self._ttl_max_s:
            raise BadRequest(
                f"ttl_s must be {TTL_MIN_S:g} to {self._ttl_max_s:g}.",
                next="Ask for a new one when it ends; for longer, create an ordinary token.",
            )
        shown = None if caller.token_id is None else self._directory.token(caller.token_id)
        if shown is None:
            raise Forbidden(
                "A short-lived token is made from a token.", next="Show a token of the account."
            )
        parent, via = shown.id, []
        is_foreign = isinstance(shown, Transient) and shown.shown_until_ms is not None
        if is_foreign or caller.is_confined:
            raise Forbidden(
                "A foreign token makes no tokens of this hub.",
                next="Have its application sign another one.",
            )
        if isinstance(shown, Transient):
            parent, via = shown.parent, [*shown.via, shown.id]
            if len(via) > ANCESTORS_MAX:
                raise Forbidden(
                    f"This token has {ANCESTORS_MAX} JWTs between it and its own token.",
                    next="Make the new one from an earlier token.",
                )
        expires_ms = now_ms + int(ttl_s * 1000)
        if caller.expires_ms is not None:
            # It cannot outlive what it was made from.
            expires_ms = min(expires_ms, caller.expires_ms)
        exp = expires_ms // 1000
        if exp * 1000 <= now_ms:
            raise token_expired()
        jti = self._new_jti(parent, exp)
        said = list(shown.scopes if scopes is None else scopes)
        claims = Claims(
            iss="clawnet",
            aud="clawnet",
            sub=shown.account,
            world=shown.world,
            scp=said,
            iat=now_ms // 1000,
            exp=exp,
            jti=jti,
            ptk=parent,
            via=via,
            meta=Meta(tok=jti, scp=said, via=via),
        )
        return self._signed(claims), claims

    def _new_jti(self, parent: str, exp: int) -> str:
        """Names its parent and its end, so that a run that never saw it can still revoke it."""
        chance = self._randomness.token_bytes(8).hex()
        return f"jwt_{parent.removeprefix('tok_')}{exp:08x}{chance}"

    def _signed(self, claims: Claims) -> str:
        from jwt import PyJWS

        said = msgspec.to_builtins(claims)
        payload = msgspec.json.encode({k: v for k, v in said.items() if v not in (None, [])})
        return PyJWS().encode(payload, self._key, algorithm=ALGORITHM, headers={"typ": "JWT"})

    # --- knowing them again -------------------------------------------------

    def verify(self, text: str, *, hash: str, now_ms: int) -> Transient:
        """What a JWT stands for now. Raises Unauthenticated, and nothing else, for any text."""
        claims = self._claims(text)
        if claims.exp * 1000 <= now_ms:
            raise expired()
        if claims.nbf is not None and claims.nbf * 1000 > now_ms:
            raise _invalid()
        named = self.named(claims.jti, now_ms=now_ms)
        if named is None or not self._revoked.keys().isdisjoint(claims.via):
            raise _invalid()
        if (named.parent, named.account, named.world) != (claims.ptk, claims.sub, claims.world):
            raise _invalid()
        if _JTI.sub(r"\g<exp>", claims.jti) != f"{claims.exp:08x}":
            raise _invalid()
        # The scopes may be less than those of the token behind it, never more than it has now.
        if not claims.scp or not ("*" in named.scopes or {*claims.scp} <= {*named.scopes}):
            raise _invalid()
        if named.expires_ms is not None and named.expires_ms <= now_ms:
            raise expired()
        return msgspec.structs.replace(
            named,
            hash=hash,
            scopes=claims.scp,
            created_ms=claims.iat * 1000,
            via=tuple(claims.via),
        )

    def _claims(self, text: str) -> Claims:
        """The claims of a text with a good signature. Raises Unauthenticated."""
        if not _SHAPE.match(text) or not text.startswith(f"{HEADER}."):
            raise _invalid()
        if self._jws is None:
            from jwt import PyJWS

            self._jws = PyJWS(algorithms=[ALGORITHM])
        from jwt.exceptions import InvalidTokenError

        try:
            payload: bytes = self._jws.decode(text, self._key, algorithms=[ALGORITHM])
            return _claims.decode(payload)
        # ValueError: msgspec's own errors, and text that is no UTF-8.
        except (InvalidTokenError, ValueError, RecursionError):
            raise _invalid() from None

    def named(self, jti: str, *, now_ms: int) -> Transient | None:
        """The JWT of that name with the widest that it can be; None if there can be none.

        Whether it was ever issued is not known: nothing of it is kept.
        """
        found = _JTI.match(jti)
        if found is None or jti in self._revoked:
            return None
        parent = self._directory.token(f"tok_{found['parent']}")
        exp = int(found["exp"], 16)
        if parent is None or not now_ms < exp * 1000 <= now_ms + AHEAD_MAX_MS:
            return None
        return Transient(
            id=jti,
            hash="",
            world=parent.world,
            account=parent.account,
            name=parent.name,
            scopes=parent.scopes,
            created_ms=now_ms,
            expires_ms=self._end_ms(exp, parent.id),
            parent=parent.id,
        )

    def _end_ms(self, exp: int, parent_id: str) -> int:
        parent = self._directory.token(parent_id)
        ends_ms = None if parent is None else parent.expires_ms
        return exp * 1000 if ends_ms is None else min(exp * 1000, ends_ms)

    def register(self, token: Transient, *, in_use: Collection[str]) -> None:
        """Let the directory know a verified one. `in_use` are those of live sessions, which
        stay when there are too many; any other is verified again when it is next shown."""
        known = self._directory.transients_of(token.world, token.account)
        if len(known) >= PER_ACCOUNT_MAX:
            spare = [one for one in known if one.id not in in_use]
            for one in spare[: PER_ACCOUNT_MAX // 4]:
                self._directory.forget_transient(one.id)
        self._directory.put_transient(token)

    # --- revoking them ------------------------------------------------------

    def revoke(self, token: Transient) -> RevokedRecord:
        """In force at once; the caller stores the record. Raises BadRequest if there are too many.

        Those that were made from it end with it.
        """
        key = (token.world, token.account)
        # Names can be made up. Those that were shown have as much room again, so that made-up
        # ones never keep anybody from revoking what is in use.
        is_known = self._directory.token(token.id) is not None
        most = REVOKED_PER_ACCOUNT_MAX * (2 if is_known else 1)
        if self._counts[key] >= most:
            raise BadRequest(
                f"An account has at most {most} revoked JWTs that still run.",
                next=f"Revoke {token.parent}, the token they were made from: it ends all of them.",
            )
        until_ms = token.shown_until_ms or token.expires_ms
        assert until_ms is not None
        record = RevokedRecord(world=token.world, account=token.account, expires_ms=until_ms)
        self._remember(token.id, record)
        # Not remove_token(): the directory may have forgotten it, but not what was made from it.
        self._directory.forget_descendants(token.world, token.account, token.id)
        return record

    def is_revoked(self, ids: Collection[str]) -> bool:
        """Whether any of these JWTs is."""
        return not self._revoked.keys().isdisjoint(ids)

    def load(self, state: State) -> None:
        """Take up what was revoked."""
        for entry in state.scan("revoked"):
            record = msgspec.json.decode(entry.value, type=RevokedRecord)
            self._remember(entry.key.removeprefix("revoked/"), record)

    def sweep(self, *, now_ms: int) -> list[Delete]:
        """Forget what has expired; the changes that let the storage forget it too.

        Until they are committed it stays known here (see swept()).
        """
        self._directory.expire_transients(before_ms=now_ms - EXPIRED_KEPT_MORE_MS)
        past_ms = now_ms - REVOKED_KEPT_MORE_MS
        return [
            Delete(f"revoked/{jti}")
            for jti, record in self._revoked.items()
            if record.expires_ms < past_ms
        ]

    def swept(self, deleted: Collection[Delete]) -> None:
        """What sweep() gave is stored."""
        for change in deleted:
            record = self._revoked.pop(change.key.removeprefix("revoked/"), None)
            if record is not None:
                self._counts[(record.world, record.account)] -= 1
        self._counts += Counter()  # drops those that came to nothing

    def _remember(self, jti: str, record: RevokedRecord) -> None:
        if jti not in self._revoked:
            self._counts[(record.world, record.account)] += 1
        self._revoked[jti] = record


def signing_key(configured: str | None, pepper: bytes) -> bytes:
    """The key of this hub's JWTs: the setting tokens.jwt_key, else derived from the hub's own.

    Raises BadConfiguration for one that is too short to be safe.
    """
    if configured is None:
        return hmac.digest(pepper, _DERIVATION, "sha256")
    key = configured.encode("utf-8", "surrogateescape")
    if len(key) < KEY_MIN_BYTES:
        raise BadConfiguration(
            f"tokens.jwt_key has {len(key)} bytes; HS256 needs at least {KEY_MIN_BYTES}.",
            next="Make one with openssl rand -hex 32, or leave it out: the hub has its own.",
        )
    return key


def _invalid() -> Unauthenticated:
    return Unauthenticated("The token is not valid.")


def expired() -> Unauthenticated:
    """A JWT is over; its holder can often make another."""
    return token_expired(
        next="Make a new one from the token it was made from: claw token create --jwt."
    )
