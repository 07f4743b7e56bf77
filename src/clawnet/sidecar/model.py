"""The port to a language model, and the one over HTTP that most of them understand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import httpx
import msgspec

from clawnet.client.backoff import Backoff
from clawnet.client.errors import parse_retry_after
from clawnet.sidecar.settings import ModelSettings

ANSWER_MAX_CHARS = 65_536
BODY_MAX_BYTES = 1_048_576
ATTEMPTS_MAX = 5
WITHIN_S = 120.0


class Message(NamedTuple):
    """What is said to a model."""

    role: Literal["system", "user", "assistant"]
    content: str


class ModelFailed(Exception):
    """No answer came, and why: a sentence without secrets."""


class ModelProvider(Protocol):
    """Something that answers a conversation.

    M1 bounded   an answer has at most ANSWER_MAX_CHARS; a longer one is cut.
    M2 deadline  it answers or fails within `within_s`, whatever the other side does.
    M3 one error only ModelFailed is raised, whose text names no key.
    M4 data      an answer is text; nothing in it is run, opened or followed here.
    M5 text      an answer is never empty: that is a failure.
    """

    async def complete(self, messages: Sequence[Message], *, within_s: float = WITHIN_S) -> str: ...


class OpenAICompatible:
    """`POST {base_url}/chat/completions`, as OpenAI, Ollama, vLLM, LiteLLM and others have it.

    429 and 5xx are tried again, as late as Retry-After says, ATTEMPTS_MAX times within the
    deadline. Redirects are not followed: they would be shown the key.
    """

    def __init__(
        self, settings: ModelSettings, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._settings = settings
        self._url = settings.base_url.rstrip("/") + "/chat/completions"
        self._transport = transport

    async def complete(self, messages: Sequence[Message], *, within_s: float = WITHIN_S) -> str:
        try:
            async with asyncio.timeout(within_s):
                return await self._tried(messages, end_s=time.monotonic() + within_s)
        except TimeoutError:
            raise ModelFailed(f"The model did not answer within {within_s:g} s.") from None

    async def _tried(self, messages: Sequence[Message], *, end_s: float) -> str:
        body = {
            "model": self._settings.model,
            "messages": [{"role": one.role, "content": one.content} for one in messages],
            "stream": False,
        }
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._settings.key:
            headers["Authorization"] = f"Bearer {self._settings.key}"
        backoff = Backoff(first_s=0.5, most_s=20.0)
        failure = ModelFailed("The model was not asked.")
        async with httpx.AsyncClient(
            transport=self._transport,
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(WITHIN_S, connect=10.0),
        ) as client:
            for attempt in range(ATTEMPTS_MAX):
                retry_after_s: float | None = None
                try:
                    status, found, raw = await self._asked(client, body, headers)
                    if status == 200:
                        return _text(raw)
                    failure = ModelFailed(f"The model's server answered with status {status}.")
                    if status != 429 and status < 500:
                        raise failure
                    retry_after_s = parse_retry_after(found)
                except httpx.TransportError as error:
                    failure = ModelFailed(
                        f"The model's server did not answer ({type(error).__name__})."
                    )
                except (httpx.InvalidURL, httpx.HTTPError, ValueError) as error:
                    raise ModelFailed(
                        f"The model cannot be asked ({type(error).__name__})."
                    ) from None
                wait_s = backoff.next_s(retry_after_s)
                if attempt + 1 == ATTEMPTS_MAX or time.monotonic() + wait_s >= end_s:
                    break
                await asyncio.sleep(wait_s)
        raise failure

    async def _asked(
        self, client: httpx.AsyncClient, body: Any, headers: dict[str, str]
    ) -> tuple[int, str | None, bytes]:
        content = msgspec.json.encode(body)
        async with client.stream("POST", self._url, content=content, headers=headers) as answer:
            raw = bytearray()
            # No more of the body is taken than the bound, however much comes.
            async for chunk in answer.aiter_bytes():
                raw += chunk
                if len(raw) > BODY_MAX_BYTES:
                    raise ModelFailed("The model's answer is larger than the limit.")
            return answer.status_code, answer.headers.get("retry-after"), bytes(raw)


class _Said(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Said


class _Completion(msgspec.Struct):
    choices: list[_Choice]


def bounded(text: str | None) -> str:
    """The answer as the port promises it. Raises ModelFailed."""
    if text is None or not text.strip():
        raise ModelFailed("The model's answer is empty.")
    return text[:ANSWER_MAX_CHARS]


def _text(raw: bytes) -> str:
    try:
        completion = msgspec.json.decode(raw, type=_Completion)
    except (msgspec.DecodeError, RecursionError):
        raise ModelFailed("The model's answer cannot be read.") from None
    if not completion.choices:
        raise ModelFailed("The model's answer is empty.")
    return bounded(completion.choices[0].message.content)
