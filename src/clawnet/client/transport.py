"""The ways to a hub: requests over httpx, and the native WebSocket."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clawnet.client.address import Address
from clawnet.client.errors import HubUnreachable, from_answer
from clawnet.client.http import Answer
from clawnet.core.errors import BadConfiguration

if TYPE_CHECKING:
    import ssl

    import httpx
    from websockets.asyncio.client import ClientConnection

TIMEOUT_S = 30.0
CONNECT_WITHIN_S = 10.0
CONNECTIONS_MAX = 100
FRAME_MAX_BYTES = 16 * 1_048_576


class Transport:
    """One pool of connections to a hub. Made on first use, inside the running loop."""

    def __init__(self, address: Address, token: str | None) -> None:
        self.address = address
        self._token = token
        self._pool: httpx.AsyncClient | None = None

    async def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: bytes | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Answer:
        """One request, whatever its status. Raises HubUnreachable.

        `facts["is_refused"]` of the exception says that no connection came about.
        """
        import httpx

        given = {key: value for key, value in (query or {}).items() if value is not None}
        try:
            response = await self._opened().request(
                method,
                self.address.url + path,
                params=given or None,
                content=body,
                headers={"Content-Type": "application/json"} if body is not None else None,
                timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_WITHIN_S)),
            )
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            if self.address.is_tls:
                _raise_untrusted(self.address, error)
            raise HubUnreachable(
                f"No hub answers at {self.address.url} ({_reason(error)}).", is_refused=True
            ) from None
        except httpx.TransportError as error:
            raise HubUnreachable(
                f"The connection to {self.address.url} broke ({_reason(error)}).",
                is_refused=False,
            ) from None
        return Answer(response.status_code, response.headers, response.content)

    def _opened(self) -> httpx.AsyncClient:
        if self._pool is None:
            import httpx

            headers = {"Accept": "application/json", "User-Agent": "clawnet"}
            if self._token is not None:
                headers["Authorization"] = f"Bearer {self._token}"
            # Without TLS there is nothing to verify: loading the CA bundle takes 25 ms.
            verify: ssl.SSLContext | bool = False
            if self.address.is_tls:
                from clawnet.client.trust import tls_context

                verify = tls_context()
            self._pool = httpx.AsyncClient(
                headers=headers,
                verify=verify,
                # A proxy of the environment, or a redirect, would be shown the token.
                trust_env=False,
                follow_redirects=False,
                limits=httpx.Limits(max_connections=CONNECTIONS_MAX),
            )
        return self._pool

    async def aclose(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.aclose()


async def open_websocket(
    address: Address,
    token: str | None,
    *,
    ping_every_s: float = 20.0,
    silent_max_s: float = 20.0,
) -> ClientConnection:
    """A connection to the native WebSocket. Raises the hub's refusal, or HubUnreachable.

    It is ended when a ping is not answered within `silent_max_s`.
    """
    from websockets.asyncio.client import connect
    from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI

    url = address.url
    context = None
    if address.is_tls:
        from clawnet.client.trust import tls_context

        context = tls_context()
    try:
        return await connect(
            address.websocket_url,
            ssl=context,
            additional_headers={"Authorization": f"Bearer {token}"} if token else {},
            compression=None,
            # A proxy of the environment would be shown the token.
            proxy=None,
            open_timeout=CONNECT_WITHIN_S,
            close_timeout=0.5,
            ping_interval=ping_every_s,
            ping_timeout=silent_max_s,
            max_size=FRAME_MAX_BYTES,
            user_agent_header="clawnet",
        )
    except InvalidStatus as error:
        response = error.response
        retry_after = response.headers.get("Retry-After")
        raise from_answer(
            response.status_code, bytes(response.body or b""), retry_after=retry_after
        ) from None
    except InvalidURI as error:
        raise BadConfiguration(str(error)) from None
    except TimeoutError:
        raise HubUnreachable(f"No hub answers at {url} (timed out).") from None
    except OSError as error:
        if address.is_tls:
            _raise_untrusted(address, error)
        # asyncio's own text repeats the address; the system's is enough.
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise HubUnreachable(f"No hub answers at {url} ({reason}).") from None
    except (InvalidHandshake, EOFError) as error:
        raise HubUnreachable(f"{url} does not speak WebSocket ({error}).") from None


def _raise_untrusted(address: Address, error: BaseException) -> None:
    """Tell a certificate that is not trusted from a hub that is not there."""
    import ssl

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            from clawnet.client.trust import untrusted

            raise untrusted(address.url, cause) from None
        cause = cause.__cause__ or cause.__context__


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
