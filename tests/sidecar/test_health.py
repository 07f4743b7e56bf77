"""The health port answers two questions and nothing else."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from clawnet.core.errors import BadConfiguration
from clawnet.sidecar.health import ANSWER_WITHIN_S, Health


async def asked(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


async def test_health_and_readiness_are_told_apart_and_all_else_is_refused() -> None:
    facts: dict[str, Any] = {"connected": False, "running_tasks": ["t1"]}
    health = Health(lambda: dict(facts))
    await health.start(0)
    try:
        for path, is_connected, status in (
            ("/healthz", False, 200), ("/readyz", False, 503), ("/readyz?x=1", True, 200),
            ("/", True, 404), ("/healthz/..", True, 404),
        ):  # fmt: skip
            facts["connected"] = is_connected
            answer = await asked(health.port, f"GET {path} HTTP/1.1\r\n\r\n".encode())
            head, _, body = answer.partition(b"\r\n\r\n")
            assert int(head.split()[1]) == status, path
            if status != 404:
                assert json.loads(body) == facts
        assert b" 405 " in await asked(health.port, b"POST /healthz HTTP/1.1\r\n\r\n")
        assert (await asked(health.port, b"HEAD /healthz HTTP/1.1\r\n\r\n")).endswith(b"\r\n\r\n")
        # A name that was made to mean this machine is not this machine.
        for host, status in (
            (b"evil.test", 421), (b"127.0.0.1.evil.test:1", 421), (b"", 421),
            (b"x\r\nHost: localhost", 421),
            (b"127.0.0.1", 200), (b"LOCALHOST:8123", 200), (b"[::1]:1", 200),
        ):  # fmt: skip
            answer = await asked(health.port, b"GET /healthz HTTP/1.1\r\nHost: %s\r\n\r\n" % host)
            assert int(answer.split()[1]) == status, host
            assert (b"t1" in answer) is (status == 200)
        # What is no request, or never ends, is not answered.
        for junk in (b"\xff" * 20_000, b"GET /healthz", b""):
            assert await asked(health.port, junk) == b""
        with pytest.raises(BadConfiguration, match="cannot be used"):
            await Health(dict).start(health.port)
        # Whoever is in the middle of asking does not hold up the end.
        reader, writer = await asyncio.open_connection("127.0.0.1", health.port)
        writer.write(b"GET /healthz HT")
        await writer.drain()
        await asked(health.port, b"GET /healthz HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(ANSWER_WITHIN_S - 1):
            await health.close()
            with pytest.raises(ConnectionError):
                await reader.read()
                raise ConnectionResetError  # an end is as good as a reset
        writer.close()
    finally:
        await health.close()
