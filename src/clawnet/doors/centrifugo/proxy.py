"""What a Centrifugo in front of this hub asks it: may this user connect, follow, publish?

Always answered with 200 and a `result` or an `error`, as Centrifugo wants it. Who asks must show
the shared secret, or could find out who may read what. Whoever is refused, for whatever reason, is
told the same words; the reasons are the hub's log's and the doors' that show a token.

A user is the account that Centrifugo found in the connection's JWT, or that /proxy/connect named.
Centrifugo knows no other rights of a token than its life. So what connected by /proxy/connect
carries the token's id along (`meta`), and is refused as soon as that token is gone.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from typing import Any

import msgspec
from msgspec import Raw
from starlette.types import Receive, Send

from clawnet.core.callers import Caller
from clawnet.core.calls.publishing import DoorPublish, Published
from clawnet.core.channels import parse
from clawnet.core.claw import via
from clawnet.core.errors import (
    BadRequest,
    ClawError,
    InvalidData,
    PayloadTooLarge,
    RateLimited,
    Unauthenticated,
    token_expired,
)
from clawnet.core.events import Origin
from clawnet.core.rights import Verb, require
from clawnet.doors.centrifugo.api_calls import nothing
from clawnet.doors.centrifugo.door import CentrifugoDoor
from clawnet.doors.centrifugo.shapes import publication_of
from clawnet.doors.http.answers import Answer, json_answer
from clawnet.doors.http.body import ENVELOPE_MAX_BYTES, decode, read_body
from clawnet.doors.http.describe import operation
from clawnet.doors.http.request import Request
from clawnet.hub.hub import Hub
from clawnet.hub.jwts import Meta
from clawnet.hub.lanes import Lane

SECRET = b"x-clawnet-proxy-secret"
EXPIRES_S = 900
"""After so long Centrifugo asks whether a connection may stay."""
CLIENT_MAX_CHARS = 64
ANSWER_MAX_S = 0.5
"""An answer that took longer may have come too late: Centrifugo waits for 1 s unless configured
otherwise."""
GIVEN_UP_S = 0.05
"""After an answer: as long as the news may take that Centrifugo had ended the connection before,
as it does when its own client leaves."""
DENIED = 403
BAD_REQUEST, TOO_LARGE, TOO_MANY, LATER = 400, 413, 429, 503

WARN_EVERY_S = 60.0

_log = logging.getLogger(__name__)


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What all questions have in common; members that are not looked at are passed over."""

    client: str = ""
    user: str = ""
    channel: str = ""
    meta: Meta | None = None
    data: Raw = msgspec.field(default_factory=nothing)


class TokenShown(msgspec.Struct, frozen=True, kw_only=True):
    """What /proxy/connect reads in a connection's own data."""

    token: str = ""


class ProxyError(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A refusal; `temporary`: asking again may help."""

    code: int
    message: str
    temporary: bool = False


class ProxyResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Members as the question needs them."""

    user: str | None = None
    expire_at: int = 0
    expired: bool = False
    info: dict[str, str] | None = None
    meta: Meta | None = None
    data: Raw | msgspec.UnsetType = msgspec.UNSET


class ProxyAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One of the two."""

    result: ProxyResult | None = None
    error: ProxyError | None = None


_asked = msgspec.json.Decoder(Asked)
_shown = msgspec.json.Decoder(TokenShown)
_operation = operation(
    tag="Centrifugo in front", body=Asked, answer=ProxyAnswer, errors=(PayloadTooLarge,),
    is_open=True,
)  # fmt: skip


@_operation
async def subscribe(request: Request) -> Answer:
    """Whether a user may follow a channel."""
    return await _answer(request, _subscribe)


@_operation
async def publish(request: Request) -> Answer:
    """Publish for a user; the answer holds what Centrifugo is to tell its subscribers.

    It is stored before this is answered. Centrifugo gives no key by which a repeated question
    could be known: a publish that timed out and is repeated by its client is stored twice.
    """
    return await Handing(request).answer()


@_operation
async def connect(request: Request) -> Answer:
    """Who connects: by `data.token`, or nobody in particular where that may read."""
    return await _answer(request, _connect)


@_operation
async def refresh(request: Request) -> Answer:
    """Whether a connection may stay, and for how long."""
    return await _answer(request, _refresh)


ROUTES = {
    f"/proxy/{endpoint.__name__}": {"POST": endpoint}
    for endpoint in (subscribe, publish, connect, refresh)
}


# --- the questions ------------------------------------------------------------


async def _subscribe(door: CentrifugoDoor, asked: Asked) -> ProxyResult:
    caller = _caller_of(door, asked)
    require(caller, Verb.SUBSCRIBE, parse(asked.channel), door.hub.directory)
    return ProxyResult()


async def _connect(door: CentrifugoDoor, asked: Asked) -> ProxyResult:
    token = _shown.decode(asked.data).token if bytes(asked.data) not in (b"", b"null") else ""
    if not token:
        if door.tokens.anonymous(is_local=False) is None:
            raise Unauthenticated("Connecting needs a token.")
        return ProxyResult(user="")
    caller = door.hub.authenticate(token)
    if caller.world != "main" or caller.account is None or caller.token_id is None:
        raise Unauthenticated("The token is not of this world.")
    return ProxyResult(
        user=caller.account,
        expire_at=_until(door.hub, caller),
        info={"handle": caller.handle, "role": caller.role},
        meta=Meta(tok=caller.token_id, scp=sorted(caller.scopes)),
    )


async def _refresh(door: CentrifugoDoor, asked: Asked) -> ProxyResult:
    try:
        caller = _caller_of(door, asked)
    except ClawError:
        return ProxyResult(expired=True)
    if caller.account is None:
        return ProxyResult(expire_at=_until(door.hub, caller))
    if caller.token_id is None:
        # A JWT that Centrifugo read itself is over when it says so: nothing here prolongs it.
        return ProxyResult(expired=True)
    return ProxyResult(expire_at=_until(door.hub, caller))


def _until(hub: Hub, caller: Caller) -> int:
    now_ms = hub.retention.now_ms()
    ends_ms = now_ms + EXPIRES_S * 1000
    if caller.expires_ms is not None:
        ends_ms = min(ends_ms, caller.expires_ms)
    return ends_ms // 1000


def _caller_of(door: CentrifugoDoor, asked: Asked) -> Caller:
    """The user of a connection, with the rights it has now. Raises Unauthenticated."""
    hub = door.hub
    if asked.meta is not None and asked.meta.tok:
        return _shown_by(hub, asked.meta, asked.user)
    if not asked.user:
        anonymous = door.tokens.anonymous(is_local=False)
        if anonymous is None:
            raise Unauthenticated("This needs a token.")
        return anonymous
    account = hub.directory.account("main", asked.user)
    if account is None or account.is_deleted or account.kind == "ext":
        # A foreign application's user is no account of the hub, whatever it is called.
        raise Unauthenticated("There is no such account.")
    return Caller(
        account=account.id,
        handle=account.handle,
        role=account.role,
        kind=account.kind,
        scopes=frozenset({"events:read", "events:write"}),
    )


def _shown_by(hub: Hub, meta: Meta, user: str) -> Caller:
    """The caller of a token that a connection showed when it began. Raises Unauthenticated."""
    now_ms = hub.retention.now_ms()
    caller = hub.directory.caller(meta.tok)
    if caller is None and (named := hub.jwts.named(meta.tok, now_ms=now_ms)) is not None:
        # Nobody has shown this JWT since the hub started; its name tells what is left of it,
        # and its scopes are those that came along, never more than those of the token behind it.
        caller = hub.directory.caller(named.parent)
        if caller is not None:
            kept = frozenset(scope for scope in meta.scp if caller.allows(scope))
            ends_ms = named.expires_ms
            caller = msgspec.structs.replace(caller, scopes=kept, expires_ms=ends_ms)
    is_revoked = hub.jwts.is_revoked((meta.tok, *meta.via))
    if caller is None or is_revoked or caller.account != user or caller.world != "main":
        raise Unauthenticated("The token was revoked.")
    if caller.expires_ms is not None and caller.expires_ms <= now_ms:
        raise token_expired()
    return caller


# --- a publish ----------------------------------------------------------------


class Handing:
    """The answer to one publish. Centrifugo tells its subscribers of the event if it gets this;
    if that is not certain, hub.told says so, and the bridge publishes the event there."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._hub = request.hub
        self._asked_s = request.hub.clock.steady_s()
        self._event: str | None = None
        self._is_good = False
        self._plain: Answer

    async def answer(self) -> Answer:
        """Store the event; the answer that is given writes itself."""
        try:
            self._plain = await _answer(self._request, self._publish)
        except BaseException:  # whatever it was, also a cancellation: no answer was given
            self._settle(is_told=False)
            raise
        return self

    async def __call__(self, receive: Receive, send: Send) -> None:
        is_written = False
        try:
            await self._plain(receive, send)
            took_s = self._hub.clock.steady_s() - self._asked_s
            is_written = self._is_good and took_s < ANSWER_MAX_S
        finally:
            if is_written:
                self._hub.spawn(self._look_again())
            else:
                self._settle(is_told=False)

    async def _publish(self, door: CentrifugoDoor, asked: Asked) -> ProxyResult:
        hub = self._hub
        caller = _caller_of(door, asked)
        # A JWT's own scopes are asked here: the hub may only know those of the token behind it.
        require(caller, Verb.PUBLISH, parse(asked.channel), hub.directory)
        call = DoorPublish(
            channel=asked.channel,
            data=asked.data,
            origin=Origin(client=asked.client[:CLIENT_MAX_CHARS] or None, via=via(asked.channel)),
        )
        published = await self._stored(caller, call)
        body = await hub.storage.read(lambda engine: engine.get(caller.world, published.seq))
        if body is None:
            # Trimmed within the same moment: it was stored, and is nobody's to see any more.
            raise Unauthenticated("The event is not kept.")
        result = ProxyResult(data=publication_of(body, is_raw=False, hub=hub)[1].data)
        self._is_good = True
        return result

    async def _stored(self, caller: Caller, call: DoorPublish) -> Published:
        done: asyncio.Future[Published | ClawError] = asyncio.get_running_loop().create_future()

        def reply(outcome: Published | ClawError) -> None:
            if done.done():
                return
            if isinstance(outcome, Published):
                # Here and not behind the await, since the bridge is told of the event next.
                self._event = outcome.id
                self._hub.told.owe(outcome.id)
            done.set_result(outcome)

        self._hub.publish(caller, call, lane=Lane(), reply=reply)
        # No deadline: the committer answers every unit, also when storage fails.
        outcome = await done
        if isinstance(outcome, ClawError):
            raise outcome
        return outcome

    async def _look_again(self) -> None:
        """Who gave up before the answer came has ended the connection by now."""
        is_told = False
        try:
            # Twice, since a timer may run before what has arrived is read.
            for wait_s in (GIVEN_UP_S, 0.001):
                await asyncio.sleep(wait_s)
            is_told = self._is_open()
        finally:
            self._settle(is_told=is_told)

    def _is_open(self) -> bool:
        """Whether the connection certainly is there."""
        is_closing = self._request.scope.get("state", {}).get("is_closing")
        return is_closing is not None and not is_closing()

    def _settle(self, *, is_told: bool) -> None:
        if self._event is not None:
            self._hub.told.settle(self._event, is_told=is_told)


# --- asking and answering -----------------------------------------------------


async def _answer(request: Request, question: Any) -> Answer:
    door: CentrifugoDoor | None = request.door.centrifugo
    if door is None or not _is_known(request, door):
        return _refused(DENIED)
    limit = request.hub.settings.limits.data_max_bytes + 2 * ENVELOPE_MAX_BYTES
    try:
        body = await read_body(request.receive, request.headers, max_bytes=limit)
        asked = decode(_asked, body)
        request.hub.refuse_unless_ready()
        result = await question(door, asked)
    except PayloadTooLarge as error:
        return _refused(TOO_LARGE, error.message)
    except RateLimited as error:
        return _refused(TOO_MANY, error.message, is_temporary=True)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return _refused(DENIED)
    except ClawError as error:
        return _told(error)
    return json_answer(ProxyAnswer(result=result))


def _told(error: ClawError) -> Answer:
    if error.status >= 500:
        return _refused(LATER, "try again later", is_temporary=True)
    if isinstance(error, BadRequest | InvalidData):
        return _refused(BAD_REQUEST, error.message)
    # Whether there is such a channel or account is nobody's to find out here.
    return _refused(DENIED)


def _refused(
    code: int, message: str = "permission denied", *, is_temporary: bool = False
) -> Answer:
    error = ProxyError(code=code, message=message, temporary=is_temporary)
    return json_answer(ProxyAnswer(error=error))


def _is_known(request: Request, door: CentrifugoDoor) -> bool:
    """Whether who asks shows the secret."""
    secret = door.settings.proxy_secret
    given = request.headers.get(SECRET, b"")
    if secret and hmac.compare_digest(given, secret.encode()):
        return True
    now_s = request.hub.clock.steady_s()
    if door.warned_s is None or now_s - door.warned_s >= WARN_EVERY_S:
        # Once a minute: whoever guesses must not fill the log.
        door.warned_s = now_s
        reason = "with a wrong X-Clawnet-Proxy-Secret"
        if not secret:
            reason = "but centrifugo.proxy_secret is not set, so that everything is refused"
        _log.warning("somebody asked %s, %s", request.scope["path"], reason)
    return False
