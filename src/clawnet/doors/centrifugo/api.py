"""The server API on HTTP: POST /api/<method> with the key, for an application's backend.

What is answered to whom, and in which of the two ways errors are told, stands here; what the
methods do in api_methods. /api/publish is also a path of claw.events, whose endpoint hands over
what shows an API key, right or wrong.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec

from clawnet.core.errors import NotFound, PayloadTooLarge, Unauthenticated
from clawnet.doors.centrifugo import api_calls as calls
from clawnet.doors.centrifugo import codes
from clawnet.doors.centrifugo.api_methods import Refusal, ServerApi, error_of
from clawnet.doors.centrifugo.door import CentrifugoDoor
from clawnet.doors.http.answers import Answer, json_answer
from clawnet.doors.http.body import check_numbers, decode, read_body
from clawnet.doors.http.describe import operation
from clawnet.doors.http.request import Request, api_key

BODY_MAX_BYTES = 1_048_576
ERROR_MODE = b"x-centrifugo-error-mode"

STATUSES = {
    codes.UNKNOWN_CHANNEL.code: 404,
    codes.DENIED.code: 403,
    codes.NO_METHOD.code: 404,
    codes.LIMIT_EXCEEDED.code: 429,
    codes.BAD_COMMAND.code: 400,
    codes.UNAVAILABLE.code: 400,
    codes.TOO_MANY.code: 429,
    codes.UNRECOVERABLE.code: 416,
    codes.CONFLICT.code: 409,
}
"""The HTTP statuses of errors for who asks for them; any other is 500. As Centrifugo maps them,
which has no 103, 106 and 111 here."""

TYPES: Mapping[str, Any] = {
    "publish": calls.PublishCall,
    "broadcast": calls.BroadcastCall,
    "subscribe": calls.SubscribeCall,
    "unsubscribe": calls.UnsubscribeCall,
    "disconnect": calls.DisconnectCall,
    "refresh": calls.RefreshCall,
    "presence": calls.ChannelCall,
    "presence_stats": calls.ChannelCall,
    "history": calls.HistoryCall,
    "history_remove": calls.ChannelCall,
    "channels": calls.ChannelsCall,
    "info": calls.InfoCall,
    "rpc": calls.RpcCall,
}
_decoders = {name: msgspec.json.Decoder(type_) for name, type_ in TYPES.items()}
_batch_decoder = msgspec.json.Decoder(calls.BatchCall)

E = TypeVar("E", bound=Callable[..., Awaitable[Any]])

_log = logging.getLogger(__name__)


def authorize(request: Request) -> ServerApi:
    """The server API, for who holds its key. Raises NotFound, Unauthenticated."""
    door: CentrifugoDoor | None = request.door.centrifugo
    key = None if door is None else door.settings.api_key
    if door is None or not key:
        raise NotFound(
            "This hub has no server API: centrifugo.api_key is not set.",
            next="Set CENTRIFUGO_API_KEY for the hub; with an account's token use /api/v1.",
        )
    given = api_key(request.headers) or b""
    # Compared as bytes and in one time, whatever was given.
    if not hmac.compare_digest(given, key.encode()):
        raise Unauthenticated(
            "The API key is missing or wrong.",
            next="Send X-API-Key: <key> or Authorization: apikey <key>; never in the URL.",
        )
    return door.api


async def publish(request: Request, body: bytes) -> Answer:
    """Publish for who holds the key; `body` was read by who shares the path."""
    return await _one(request, "publish", body)


async def _one(request: Request, method: str, body: bytes | None = None) -> Answer:
    api = authorize(request)
    if body is None:
        body = await read_body(request.receive, request.headers, max_bytes=BODY_MAX_BYTES)
    elif len(body) > BODY_MAX_BYTES:
        raise PayloadTooLarge(f"The body is larger than {BODY_MAX_BYTES} bytes.")
    call = _checked(_decoders[method], body)
    try:
        result = await _done(api, method, call)
    except Refusal as refusal:
        return _refused(request, refusal)
    return json_answer({"result": result})


def _refused(request: Request, refusal: Refusal) -> Answer:
    status = 200
    if request.headers.get(ERROR_MODE, b"").lower() == b"transport":
        status = STATUSES.get(refusal.code, 500)
    return json_answer(calls.Result(error=error_of(refusal)), status=status)


def no_such_method(request: Request, path: str) -> Answer | None:
    """What is said of a path below /api/ that there is not, to who holds the key; None to others,
    who did not mean the server API or may not know what it has."""
    method = path.removeprefix("/api/")
    is_method = path.startswith("/api/") and method and "/" not in method
    if not is_method or api_key(request.headers) is None:
        return None
    try:
        authorize(request)
    except (NotFound, Unauthenticated):
        return None
    told = f"There is no method {ascii(method[:60])}."
    return _refused(request, Refusal(codes.NO_METHOD, told))


def _checked(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    """The request in a body. Raises BadRequest, also for numbers that JSON cannot carry."""
    call = decode(decoder, body)
    check_numbers(call)
    return call


async def _done(api: ServerApi, method: str, call: Any) -> Any:
    """Do a method. Raises Refusal and nothing else that a caller could have caused."""
    try:
        return await api.do(method, call)
    except Refusal:
        raise
    except Exception:  # a defect is told as Centrifugo tells its own, and logged
        _log.exception("the method %s of the server API failed", method)
        raise Refusal(codes.INTERNAL, "The hub failed; nothing is known of the outcome.") from None


async def _reply(api: ServerApi, command: calls.Command) -> dict[str, Any]:
    named = command.named()
    if named is None:
        refusal = Refusal(codes.BAD_COMMAND, "A command of a batch names exactly one method.")
        return {"error": error_of(refusal)}
    method, call = named
    try:
        return {method: await _done(api, method, call)}
    except Refusal as refusal:
        return {"error": error_of(refusal)}


def _described(body: Any, answer: Any) -> Callable[[E], E]:
    return operation(
        tag="server API",
        body=body,
        answer=answer,
        errors=(NotFound, Unauthenticated, PayloadTooLarge),
        is_open=True,
    )


@_described(calls.BatchCall, calls.BatchAnswer)
async def batch(request: Request) -> Answer:
    """Run several methods; the answer holds one reply for each, in order.

    With the server API's key (X-API-Key), as every path of this group.
    """
    api = authorize(request)
    body = await read_body(request.receive, request.headers, max_bytes=BODY_MAX_BYTES)
    call: calls.BatchCall = _checked(_batch_decoder, body)
    asked = sum(
        1 if one.broadcast is None else len(one.broadcast.channels) for one in call.commands
    )
    if asked > calls.TARGETS_MAX:
        refusal = Refusal(
            codes.BAD_COMMAND, f"A batch asks for at most {calls.TARGETS_MAX} things."
        )
        return json_answer({"error": error_of(refusal)})
    if call.parallel:
        replies = list(await asyncio.gather(*(_reply(api, one) for one in call.commands)))
    else:
        replies = [await _reply(api, one) for one in call.commands]
    return json_answer(calls.BatchAnswer(replies=replies))


@_described(calls.BroadcastCall, calls.Result[calls.BroadcastAnswer])
async def broadcast(request: Request) -> Answer:
    """Publish the same on several channels."""
    return await _one(request, "broadcast")


@_described(calls.SubscribeCall, calls.Result[calls.EmptyAnswer])
async def subscribe(request: Request) -> Answer:
    """Subscribe a user's connections to a channel."""
    return await _one(request, "subscribe")


@_described(calls.UnsubscribeCall, calls.Result[calls.EmptyAnswer])
async def unsubscribe(request: Request) -> Answer:
    """Unsubscribe a user's connections from a channel."""
    return await _one(request, "unsubscribe")


@_described(calls.DisconnectCall, calls.Result[calls.EmptyAnswer])
async def disconnect(request: Request) -> Answer:
    """End a user's connections."""
    return await _one(request, "disconnect")


@_described(calls.RefreshCall, calls.Result[calls.EmptyAnswer])
async def refresh(request: Request) -> Answer:
    """Say when a user's connections end."""
    return await _one(request, "refresh")


@_described(calls.ChannelCall, calls.Result[calls.PresenceAnswer])
async def presence(request: Request) -> Answer:
    """Who follows a channel."""
    return await _one(request, "presence")


@_described(calls.ChannelCall, calls.Result[calls.PresenceStatsAnswer])
async def presence_stats(request: Request) -> Answer:
    """How many follow a channel."""
    return await _one(request, "presence_stats")


@_described(calls.HistoryCall, calls.Result[calls.HistoryAnswer])
async def history(request: Request) -> Answer:
    """What was published on a channel."""
    return await _one(request, "history")


@_described(calls.ChannelCall, calls.Result[calls.EmptyAnswer])
async def history_remove(request: Request) -> Answer:
    """Remove what a declared free name's channel keeps; its readers are told of the gap."""
    return await _one(request, "history_remove")


@_described(calls.ChannelsCall, calls.Result[calls.ChannelsAnswer])
async def channels(request: Request) -> Answer:
    """The channels that are followed now."""
    return await _one(request, "channels")


@_described(calls.InfoCall, calls.Result[calls.InfoAnswer])
async def info(request: Request) -> Answer:
    """This hub in numbers."""
    return await _one(request, "info")


@_described(calls.RpcCall, calls.Result[calls.RpcAnswer])
async def rpc(request: Request) -> Answer:
    """Ask a registered method."""
    return await _one(request, "rpc")


ROUTES: Mapping[str, Mapping[str, Any]] = {
    f"/api/{endpoint.__name__}": {"POST": endpoint}
    for endpoint in (
        batch, broadcast, subscribe, unsubscribe, disconnect, refresh, presence, presence_stats,
        history, history_remove, channels, info, rpc,
    )
}  # fmt: skip
"""All but publish, whose path is shared."""
