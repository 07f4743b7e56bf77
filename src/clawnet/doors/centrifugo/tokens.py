"""What the tokens of Centrifugo's clients say, and whom this hub takes their bearers for.

A connection token is a token of this hub (opaque, or a JWT that the hub issued), or a foreign
JWT, which the application's own backend signed with the key that both were given. A foreign one
is good at this door only and never names an account of the hub: it maps to one of kind `ext`
(hub.foreign). A subscription token is always foreign, and opens one declared free name.

PyJWT computes; what is admitted is decided here: HS256 alone, no header that asks for another
key or algorithm, and claims that are said once and are what they must be.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import msgspec
from msgspec import UNSET, Raw, UnsetType

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.foreign import (
    ANONYMOUS_SUBJECT,
    SUBJECT_MAX_CHARS,
    AdmitAnyone,
    AdmitForeign,
)
from clawnet.core.channels import NAME_MAX_CHARS, Kind, parse
from clawnet.core.errors import ClawError, InvalidChannel, Unauthenticated
from clawnet.core.payloads import admit
from clawnet.doors.centrifugo.overrides import overrides_of
from clawnet.doors.centrifugo.settings import CentrifugoSettings
from clawnet.doors.centrifugo.wire import NO_DATA
from clawnet.hub.jwts import ALGORITHM, signing_key
from clawnet.hub.vault import TOKEN_MAX_CHARS

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub

FOREIGN_MAX_CHARS = 16_384
"""A foreign token carries what its application wants to tell (info, data of subscriptions)."""
CHANNELS_MAX = 128
"""As many server-side subscriptions as Centrifugo's own default allows."""
INFO_MAX_BYTES = 4_096
_FOREVER_S = 253_402_300_799
"""The end of the year 9999. What lies behind it (milliseconds, mostly) never comes."""
_SHAPE = re.compile(r"[A-Za-z0-9_-]{1,512}\.[A-Za-z0-9_-]{2,}\.[A-Za-z0-9_-]{43}\Z")

Reason = Literal["invalid", "expired", "mismatch"]


class Refused(Exception):
    """A token that is not admitted, and why: it is none, it is over, or it is for somebody or
    something else."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


class SubscriptionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """A subscription that a connection token brings along."""

    info: Raw = NO_DATA
    data: Raw = NO_DATA
    overrides: dict[str, bool] = {}
    """Some of overrides.OVERRIDES."""


class ConnectionToken(msgspec.Struct, frozen=True, kw_only=True):
    """`caller` is None where admit() has to find or make the account. `expires_ms` is when the
    connection is over unless it is refreshed."""

    caller: Caller | None
    subject: str = ""
    expires_ms: int | None = None
    info: Raw = NO_DATA
    channels: dict[str, SubscriptionOptions] = {}
    is_foreign: bool = False
    mark: str = ""
    shown_until_ms: int | None = None


class SubscriptionToken(msgspec.Struct, frozen=True, kw_only=True):
    """A ticket to one channel. `expires_ms` is when the subscription is over."""

    channel: str
    expires_ms: int | None = None
    info: Raw = NO_DATA
    data: Raw = NO_DATA
    overrides: dict[str, bool] = {}


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    alg: Literal["HS256"]
    typ: Literal["JWT", "jwt"] = "JWT"


class _Options(msgspec.Struct, frozen=True):
    """What may be said of a subscription, in either kind of token."""

    info: Raw = NO_DATA
    b64info: str | None = None
    data: Raw = NO_DATA
    b64data: str | None = None
    override: dict[str, Any] | None = None


class _Claims(msgspec.Struct, frozen=True):
    """What a foreign token can say; what is not named here means nothing."""

    sub: str | None = None
    exp: int | float | None = None
    expire_at: int | float | None = None
    nbf: int | float | None = None
    iat: int | float | None = None
    aud: str | list[str] | None = None
    iss: str | None = None
    jti: str | None = None
    info: Raw = NO_DATA
    b64info: str | None = None
    data: Raw = NO_DATA
    b64data: str | None = None
    override: dict[str, Any] | None = None
    channels: list[str] | None = None
    subs: dict[str, _Options] | None = None
    channel: str | UnsetType | None = UNSET
    client: str | None = None


_header = msgspec.json.Decoder(_Header).decode
_claims = msgspec.json.Decoder(_Claims).decode

_OURS = frozenset({"ptk", "via", "scp"})
"""Claims of the hub's own JWTs."""


class Tokens:
    """Reads tokens and finds their callers."""

    def __init__(self, hub: Hub, settings: CentrifugoSettings) -> None:
        self._hub = hub
        self._settings = settings
        configured = hub.settings.tokens.jwt_key
        # The key that the hub derives from its own is nobody's to sign with.
        self._key = None if configured is None else signing_key(configured, b"")
        self._jws: Any = None

    # --- connections --------------------------------------------------------

    def connection(self, token: str) -> ConnectionToken:
        """What a connection token says. Raises Refused, and nothing else, for any text."""
        claims = self._foreign(token) if self._key is not None and token.count(".") == 2 else None
        if claims is None:
            return self._own(token)
        if claims.channel is not UNSET:
            # A subscription token: it is for its channel, and opens no connection.
            raise Refused("invalid")
        now_ms, subject = self._hub.retention.now_ms(), claims.sub or ""
        if len(subject) > SUBJECT_MAX_CHARS or subject == ANONYMOUS_SUBJECT:
            raise Refused("invalid")
        shown_until_ms = self._checked(claims, now_ms)
        expires_ms = _end_ms(claims)
        if expires_ms is not None and expires_ms <= now_ms:
            raise Refused("expired")
        channels = _channels_of(claims)
        return ConnectionToken(
            caller=self._without_account(expires_ms, channels) if not subject else None,
            subject=subject,
            expires_ms=expires_ms,
            info=_json(claims.info, claims.b64info),
            channels=channels,
            is_foreign=True,
            # Not the whole text: a signature can be spelled in several ways.
            mark=f"jti {claims.jti}" if claims.jti else token.rpartition(".")[0],
            shown_until_ms=shown_until_ms,
        )

    async def admit(self, token: ConnectionToken) -> Caller:
        """The caller of a token that connection() gave; makes the ext account if it is new.

        Raises Refused, and ClawError where the hub cannot (Unavailable, DiskFull, Forbidden …).
        """
        if token.caller is not None:
            return token.caller
        call = AdmitForeign(
            subject=token.subject,
            mark=token.mark,
            expires_ms=token.expires_ms,
            shown_until_ms=token.shown_until_ms,
        )
        try:
            admitted = await self._hub.call(call, caller=HUB)
        except Unauthenticated:
            raise Refused("invalid") from None
        caller = self._hub.directory.caller(admitted.token_id)
        if caller is None:
            raise Refused("invalid")
        return msgspec.structs.replace(caller, tickets=_tickets(token.channels))

    def anonymous(self, *, is_local: bool) -> Caller | None:
        """Who connects without a token; None where nobody may.

        Whom this door's own option lets in and not the hub is confined to declared free names.
        """
        chosen = self._settings.anonymous
        if chosen is False:
            return None
        try:
            return self._hub.anonymous(is_local=is_local)
        except Unauthenticated:
            return self._without_account(None, {}) if chosen else None

    async def insecure(self) -> Caller:
        """Who connects without a token in insecure mode: on declared free names it may do
        everything. Raises as admit()."""
        if not self._settings.insecure:
            raise Refused("invalid")
        try:
            admitted = await self._hub.call(AdmitAnyone(), caller=HUB)
        except Unauthenticated:
            raise Refused("invalid") from None
        caller = self._hub.directory.caller(admitted.token_id)
        if caller is None:
            raise Refused("invalid")
        return msgspec.structs.replace(caller, rules_free=True, is_confined=True)

    def _without_account(
        self, expires_ms: int | None, channels: dict[str, SubscriptionOptions]
    ) -> Caller:
        return Caller(
            account=None,
            scopes=frozenset({"events:read"}),
            expires_ms=expires_ms,
            tickets=_tickets(channels),
            is_confined=True,
        )

    def _own(self, token: str) -> ConnectionToken:
        """A token of this hub."""
        if len(token) > TOKEN_MAX_CHARS:
            raise Refused("invalid")
        try:
            caller = self._hub.authenticate(token)
        except Unauthenticated as error:
            raise Refused("expired" if error.is_expired else "invalid") from None
        return ConnectionToken(caller=caller, expires_ms=caller.expires_ms)

    # --- subscriptions ------------------------------------------------------

    def subscription(
        self, token: str, *, user: str, client: str, channel: str
    ) -> SubscriptionToken:
        """What a subscription token says to that user's client. Raises Refused, nothing else.

        Without a `channel` (centrifuge-python 0.5 leaves it out of sub_refresh) the token's own
        is taken.
        """
        claims = self._foreign(token) if self._key is not None else None
        if claims is None or not isinstance(claims.channel, str):
            raise Refused("invalid")
        if not 0 < len(claims.channel) <= NAME_MAX_CHARS:
            raise Refused("invalid")
        now_ms = self._hub.retention.now_ms()
        self._checked(claims, now_ms)
        expires_ms = _end_ms(claims)
        if expires_ms is not None and expires_ms <= now_ms:
            raise Refused("expired")
        info, data = _json(claims.info, claims.b64info), _json(claims.data, claims.b64data)
        overrides = _overrides(claims.override)
        is_meant = (claims.sub or "") == user and claims.channel == (channel or claims.channel)
        if not is_meant or (claims.client and claims.client != client):
            raise Refused("mismatch")
        return SubscriptionToken(
            channel=claims.channel,
            expires_ms=expires_ms,
            info=info,
            data=data,
            overrides=overrides,
        )

    # --- foreign tokens -----------------------------------------------------

    def _foreign(self, token: str) -> _Claims | None:
        """The claims of a foreign token with a good signature; None if it is one of the hub's.

        Raises Refused.
        """
        if len(token) > FOREIGN_MAX_CHARS or not _SHAPE.match(token):
            raise Refused("invalid")
        from jwt import PyJWS
        from jwt.exceptions import InvalidTokenError

        if self._jws is None:
            self._jws = PyJWS(algorithms=[ALGORITHM])
        try:
            _header(_decoded(token.partition(".")[0]))
            payload: bytes = self._jws.decode(token, self._key, algorithms=[ALGORITHM])
            names = _read_strictly(payload)
            if not _OURS.isdisjoint(names) or names.get("iss") == "clawnet":
                return None
            if str(names.get("jti")).startswith("jwt_"):
                return None
            return _claims(payload)
        # ValueError: msgspec's and json's own errors, base64, and text that is no UTF-8.
        except (InvalidTokenError, ValueError, RecursionError):
            raise Refused("invalid") from None

    def _checked(self, claims: _Claims, now_ms: int) -> int | None:
        """Ask what every foreign token is asked; until when it may be shown. Raises Refused."""
        settings = self._settings
        audience = [claims.aud] if isinstance(claims.aud, str) else claims.aud or []
        if settings.token_audience is not None and settings.token_audience not in audience:
            raise Refused("invalid")
        if settings.token_issuer is not None and settings.token_issuer != claims.iss:
            raise Refused("invalid")
        exp_ms, nbf_ms = _ms(claims.exp), _ms(claims.nbf)
        _ms(claims.iat), _ms(claims.expire_at)
        if exp_ms is not None and exp_ms <= now_ms:
            raise Refused("expired")
        if nbf_ms is not None and nbf_ms > now_ms:
            raise Refused("expired")
        return exp_ms


def _end_ms(claims: _Claims) -> int | None:
    """When what the token opens is over: expire_at overrides exp, and 0 is never."""
    if claims.expire_at is None:
        return _ms(claims.exp)
    return _ms(claims.expire_at) or None


def _ms(seconds: float | None) -> int | None:
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not seconds >= 0:
        raise Refused("invalid")
    return int(min(seconds, _FOREVER_S) * 1000)


def _channels_of(claims: _Claims) -> dict[str, SubscriptionOptions]:
    """The server-side subscriptions; Centrifugo looks at `channels` only where `subs` is empty."""
    if claims.subs:
        found = {
            name: SubscriptionOptions(
                info=_json(said.info, said.b64info),
                data=_json(said.data, said.b64data),
                overrides=_overrides(said.override),
            )
            for name, said in claims.subs.items()
        }
    else:
        found = {name: SubscriptionOptions() for name in claims.channels or ()}
    if len(found) > CHANNELS_MAX or not all(0 < len(name) <= NAME_MAX_CHARS for name in found):
        raise Refused("invalid")
    return found


def _tickets(channels: dict[str, SubscriptionOptions]) -> frozenset[str]:
    """The free names among those that a connection token subscribes to: it opens them, and
    nothing of the hub's own."""
    return frozenset(name for name in channels if _is_free(name))


def _is_free(name: str) -> bool:
    try:
        return parse(name).kind is Kind.FREE
    except InvalidChannel:
        return False


def _overrides(said: dict[str, Any] | None) -> dict[str, bool]:
    try:
        return overrides_of(said)
    except ValueError:
        raise Refused("invalid") from None


def _json(value: Raw, encoded: str | None) -> Raw:
    """A JSON value of a token, admitted for any frame. Raises Refused."""
    raw = bytes(value)
    if encoded:
        try:
            raw = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            raise Refused("invalid") from None
    if raw in (b"", b"null"):
        return NO_DATA
    try:
        return Raw(admit(raw, max_bytes=INFO_MAX_BYTES).encode())
    except ClawError:
        raise Refused("invalid") from None


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _read_strictly(payload: bytes) -> dict[str, Any]:
    """The claims as they come; ValueError where one is said twice, or is no JSON.

    Who looks for a claim that settles whose token it is must not be shown another one than
    who reads its value.
    """
    found = json.loads(payload, object_pairs_hook=_once, parse_constant=_no_number)
    if not isinstance(found, dict):
        raise ValueError("claims are an object")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")
