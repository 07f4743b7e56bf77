"""Moltbook's API, as far as it tells who somebody is: profiles and identity tokens.

It is somebody else's server. It gets a deadline, may answer with little, redirects nowhere (the
bare domain would be given the key), and what it says is looked at before it is believed. Names
become an encoded value of the query and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import msgspec

from clawnet.core.errors import BadConfiguration, ProofUnavailable, RateLimited
from clawnet.core.limits import Bucket
from clawnet.features.identity.settings import IdentitySettings
from clawnet.ports.clock import Clock

if TYPE_CHECKING:
    import httpx

BODY_MAX_BYTES = 262_144
"""A profile with its recent posts is a few KiB."""
POSTS_MAX = 100

REQUESTS_PER_MIN = 100
_BURST = REQUESTS_PER_MIN / 2
"""With half of it at once and half of it by the minute, no minute has more than it allows."""

_TEXTS = ("title", "content", "body", "text")

_log = logging.getLogger(__name__)


class Post(msgspec.Struct, frozen=True, kw_only=True):
    """What a post says, and whose it is if it tells."""

    author: Any = None
    title: Any = None
    content: Any = None
    body: Any = None
    text: Any = None


class Agent(msgspec.Struct, frozen=True, kw_only=True):
    """An agent of Moltbook; there is more that is not read."""

    name: str
    description: str | None = None


class Profile(msgspec.Struct, frozen=True, kw_only=True, rename={"posts": "recentPosts"}):
    """The answer for a profile."""

    agent: Agent
    success: bool = True
    posts: list[Post] | None = None

    def says(self, signature: str) -> bool:
        """Whether the agent wrote that into its description or into a recent post."""
        if signature in (self.agent.description or ""):
            return True
        for post in (self.posts or [])[:POSTS_MAX]:
            if _is_by(post.author, self.agent.name):
                texts = [getattr(post, name) for name in _TEXTS]
                if any(isinstance(text, str) and signature in text for text in texts):
                    return True
        return False


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """The answer for an identity token; `valid` is None where it says nothing of one."""

    success: bool = True
    valid: bool | None = None
    agent: Agent | None = None


_profile = msgspec.json.Decoder(Profile)
_verified = msgspec.json.Decoder(Verified)


class Moltbook:
    """A client of one Moltbook, opened when it is first needed."""

    def __init__(
        self,
        settings: IdentitySettings,
        clock: Clock,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`transport` is another way to send requests, for tests. Raises BadConfiguration."""
        base = settings.moltbook_url.rstrip("/")
        if not base.startswith(("https://", "http://")):
            raise BadConfiguration(
                f"identity.moltbook_url is {ascii(base[:80])}, which is no http(s) address."
            )
        self._base = base
        self._settings = settings
        self._clock = clock
        self._transport = transport
        self._bucket = Bucket(
            rate_per_s=REQUESTS_PER_MIN / 2 / 60, burst=_BURST, now_s=clock.steady_s()
        )
        self._client: httpx.AsyncClient | None = None

    async def profile(self, name: str) -> Profile | None:
        """The profile of an agent; None if there is none. Raises ProofUnavailable, RateLimited."""
        headers = {}
        if self._settings.moltbook_key is not None:
            headers["Authorization"] = f"Bearer {self._settings.moltbook_key}"
        status, body = await self._ask(
            "GET", "/agents/profile", params={"name": name}, headers=headers
        )
        if status == 404:
            return None
        if status != 200:
            raise self._unavailable(f"its answer was {status}", status=status)
        profile: Profile = self._decoded(_profile, body)
        if not profile.success:
            raise self._unavailable("its answer says that it failed")
        return profile

    async def holder(self, token: str, *, audience: str) -> Agent | None:
        """Whose identity token that is; None if it is not good for this audience.

        Raises ProofUnavailable, RateLimited.
        """
        headers = {}
        if self._settings.moltbook_app_key is not None:
            headers["X-Moltbook-App-Key"] = self._settings.moltbook_app_key
        status, body = await self._ask(
            "POST",
            "/agents/verify-identity",
            headers=headers,
            json={"token": token, "audience": audience},
        )
        if status in (400, 404, 410, 422):
            return None
        if status == 401 and self._refuses_token(body):
            return None
        if status != 200:
            raise self._unavailable(f"its answer was {status}", status=status)
        verified: Verified = self._decoded(_verified, body)
        if verified.valid is None:
            raise self._unavailable("its answer says nothing of the identity token")
        return verified.agent if verified.success and verified.valid else None

    async def close(self) -> None:
        """Close what is open."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _ask(self, method: str, path: str, **how: Any) -> tuple[int, bytes]:
        import httpx

        wait_s = self._bucket.take(1, now_s=self._clock.steady_s())
        if wait_s:
            raise RateLimited(
                "Moltbook is asked as often as it allows.",
                next="Wait as long as Retry-After says, then try again with the same claim.",
                retry_after_s=wait_s,
            )
        try:
            async with (
                asyncio.timeout(self._settings.moltbook_timeout_s),
                self._opened().stream(method, self._base + path, **how) as response,
            ):
                return response.status_code, await self._bounded(response)
        except TimeoutError:
            raise self._unavailable("it took too long") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise self._unavailable(f"{type(error).__name__}") from None

    async def _bounded(self, response: httpx.Response) -> bytes:
        """The body, if it is small. What is larger is not read to its end."""
        if response.is_redirect:
            # Nothing follows it, so its body says nothing.
            return b""
        encoding = response.headers.get("content-encoding", "identity")
        if encoding != "identity":
            # A few bytes could become any number.
            raise self._unavailable("its answer is compressed")
        declared = response.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared[:20]) > BODY_MAX_BYTES:
            raise self._unavailable("its answer is too large")
        parts: list[bytes] = []
        size = 0
        async for part in response.aiter_raw():
            size += len(part)
            if size > BODY_MAX_BYTES:
                raise self._unavailable("its answer is too large")
            parts.append(part)
        return b"".join(parts)

    def _opened(self) -> httpx.AsyncClient:
        if self._client is None:
            import httpx

            # Not trust_env: a .netrc of the machine's user must not replace the key.
            self._client = httpx.AsyncClient(
                transport=self._transport,
                trust_env=False,
                follow_redirects=False,
                timeout=self._settings.moltbook_timeout_s,
                headers={"Accept": "application/json", "Accept-Encoding": "identity"},
                limits=httpx.Limits(max_connections=10, max_keepalive_connections=2),
            )
        return self._client

    def _decoded(self, decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
        try:
            return decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise self._unavailable("its answer is not what was expected") from None

    def _refuses_token(self, body: bytes) -> bool:
        """Whether a 401 is about the identity token and not about this hub's own key."""
        try:
            said = msgspec.json.decode(body, type=Verified)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return False
        return said.valid is False

    def _unavailable(self, why: str, *, status: int | None = None) -> ProofUnavailable:
        # For whoever runs the hub; who logs in cannot do anything about the cause.
        hint = ""
        if status is not None and 300 <= status < 400:
            hint = "; identity.moltbook_url must be the address that does not redirect (www)"
        elif status in (401, 403):
            hint = "; look at identity.moltbook_key"
        _log.warning("Moltbook cannot be asked: %s%s", why, hint)
        return ProofUnavailable("Moltbook cannot be reached at the moment.", retry_after_s=5.0)


def _is_by(author: Any, name: str) -> bool:
    """Whether a post is the agent's own. One that names nobody is: the list is the agent's."""
    if isinstance(author, dict):
        author = author.get("name")
    if author is None:
        return True
    return isinstance(author, str) and author.lower() == name.lower()
