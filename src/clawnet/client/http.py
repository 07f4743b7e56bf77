"""Calls without asyncio and httpx, for short commands: nothing here is slow to import.

One connection per call: a command makes one to three of them, and a reused
connection that the hub has just closed would make failures ambiguous.
"""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from clawnet.client.address import Address, check_token, parse_address
from clawnet.client.errors import HubUnreachable, UnexpectedAnswer, from_answer
from clawnet.core.errors import ClawError, OutcomeUnknown, Unavailable

TIMEOUT_S = 30.0
PUBLISH_WITHIN_S = 10.0


class Answer(NamedTuple):
    """An answer as it came. Header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def segment(text: str) -> str:
    """One segment of a path, escaped: a name from a user may hold a slash."""
    return quote(text, safe="")


def new_dedupe_key() -> str:
    """A key that nobody else has. Not from uuid, whose import costs more than a request."""
    return os.urandom(16).hex()


class HubHttp:
    """A hub, called over http.client. Environment proxies are not used: a token is at stake."""

    def __init__(
        self, server: str, token: str | None = None, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        self.address: Address = parse_address(server)
        self.token = check_token(token)
        self._timeout_s = timeout_s

    def send(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """One request, whatever its status. Raises HubUnreachable.

        `facts["is_refused"]` of the exception says that no connection came
        about at all, so that nothing can have happened.
        """
        address = self.address
        wait_s = timeout_s or self._timeout_s
        connection = self._connection(wait_s)
        try:
            connection.connect()
        except (OSError, UnicodeError) as error:
            connection.close()
            if address.is_tls:
                _raise_untrusted(address, error)
            raise HubUnreachable(
                f"No hub answers at {address.url} ({_reason(error)}).", is_refused=True
            ) from None
        try:
            return self._exchange(connection, method, path, body)
        except TimeoutError:
            raise HubUnreachable(
                f"The hub at {address.url} did not answer within {wait_s:g} s.", is_refused=False
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise HubUnreachable(
                f"The connection to {address.url} broke ({_reason(error)}).", is_refused=False
            ) from None
        finally:
            connection.close()

    def lines(self, method: str, path: str) -> Iterator[Any]:
        """A request whose answer is lines of JSON, as they come. Raises ClawError.

        The timeout is for each line.
        """
        address = self.address
        connection = self._connection(self._timeout_s)
        try:
            connection.request(method, address.path + path, headers=self._headers())
            response = connection.getresponse()
            if response.status != 200:
                lowered = {name.lower(): value for name, value in response.getheaders()}
                decode(Answer(response.status, lowered, response.read()), address)
            for line in response:
                yield json.loads(line)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if address.is_tls:
                _raise_untrusted(address, error)
            raise HubUnreachable(
                f"The connection to {address.url} broke ({_reason(error)})."
            ) from None
        finally:
            connection.close()

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        host, port = self.address.host, self.address.port
        if not self.address.is_tls:
            return http.client.HTTPConnection(host, port, timeout=timeout_s)
        from clawnet.client.trust import tls_context

        return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=tls_context())

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": "clawnet"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        return headers

    def _exchange(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None
    ) -> Answer:
        headers = self._headers()
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, self.address.path + path, body=body, headers=headers)
        except (BrokenPipeError, ConnectionResetError):
            # The hub refused a large body before it was all sent: its answer may be there.
            pass
        response = connection.getresponse()
        lowered = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, lowered, response.read())

    def call(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        raw: bytes | None = None,
        query: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> Any:
        """One request and its answer, decoded. Raises ClawError for every status but 2xx.

        `body` is encoded as JSON, `raw` is sent as it is. Members of `query` that
        are None are left out.
        """
        if query:
            given = {key: value for key, value in query.items() if value is not None}
            path = f"{path}?{urlencode(given)}" if given else path
        if body is not None:
            raw = json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
        answer = self.send(method, path, body=raw, timeout_s=timeout_s)
        return decode(answer, self.address)

    def publish(
        self,
        channel: str,
        data: bytes,
        *,
        type: str | None = None,
        dedupe_key: str | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        traceparent: str | None = None,
        reply_within_s: float | None = None,
        within_s: float = PUBLISH_WITHIN_S,
        is_patient: bool = False,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> dict[str, Any]:
        """Publish JSON bytes under one key, again if the answer was lost.

        A hub that refuses connections from the start is HubUnreachable at
        once, unless `is_patient`; after a lost answer it is tried until
        `within_s` is over. A rate limit is for the caller to wait out. Raises ClawError.
        """
        key = dedupe_key or new_dedupe_key()
        members: dict[str, Any] = {
            "type": type,
            "dedupe_key": key,
            "correlation_id": correlation_id,
            "causation_id": causation_id,
            "traceparent": traceparent,
            "expect": None if reply_within_s is None else {"reply_within_s": reply_within_s},
        }
        given = {name: value for name, value in members.items() if value is not None}
        rest = json.dumps(given, separators=(",", ":")).encode()
        # The data's own bytes are spliced in, so that numbers stay as they were written.
        raw = b'{"data":' + data + b"," + rest[1:]
        path = f"/api/v1/channels/{segment(channel)}/events"
        end = now() + within_s
        is_unsure = False
        wait_s = 0.1
        while True:
            try:
                answer = self.call("POST", path, raw=raw, timeout_s=max(0.1, end - now()))
            except HubUnreachable as error:
                is_unsure = is_unsure or not error.facts.get("is_refused")
                if not is_unsure and not is_patient:
                    raise
                failure: ClawError = error
            except (Unavailable, OutcomeUnknown) as error:
                is_unsure = is_unsure or isinstance(error, OutcomeUnknown)
                failure = error
            else:
                if not isinstance(answer, dict):
                    raise UnexpectedAnswer("The answer to the publish is no object.")
                return answer
            wait_s = max(wait_s, failure.retry_after_s or 0.0)
            if now() + wait_s >= end:
                if is_unsure:
                    raise outcome_unknown(failure, key)
                raise failure
            sleep(wait_s)
            wait_s = min(wait_s * 2, 2.0)


def outcome_unknown(failure: ClawError, key: str) -> ClawError:
    """A failed publish whose event may be stored: says so, and under which key to repeat it."""
    return HubUnreachable(
        f"{failure.message} Whether the event is stored is not known.",
        next=f"Publish it again with the same dedupe key ({key}); that is safe.",
        dedupe_key=key,
    )


def naming_key(failure: ClawError, key: str) -> ClawError:
    """A copy of a failed publish's error; of a hub that was not reached it names the key."""
    named = copy(failure)
    if isinstance(failure, HubUnreachable):
        named.facts = {**failure.facts, "dedupe_key": key}
    return named


def decode(answer: Answer, address: Address) -> Any:
    """The JSON of an answer with status 2xx; None for an empty one. Raises ClawError."""
    if 300 <= answer.status < 400:
        # Never followed: the token would go along to wherever it points.
        where = answer.headers.get("location", "elsewhere")
        raise UnexpectedAnswer(
            f"{address.url} redirects to {ascii(where[:200])}.", next="Give that address itself."
        )
    if not 200 <= answer.status < 300:
        raise from_answer(answer.status, answer.body, retry_after=answer.headers.get("retry-after"))
    if not answer.body:
        return None
    try:
        return json.loads(answer.body)
    except ValueError:
        raise UnexpectedAnswer(f"{address.url} answered with something that is no JSON.") from None


def _raise_untrusted(address: Address, error: Exception) -> None:
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        from clawnet.client.trust import untrusted

        raise untrusted(address.url, error) from None


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
