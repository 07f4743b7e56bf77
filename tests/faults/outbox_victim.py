"""The process that test_outbox_kills kills: enqueues for ever and tells what is kept.

Called with the hub's address, a token, the outbox's path and the number of this run.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from clawnet.client import Client, Outbox
from clawnet.core.errors import OutboxFull

CHANNELS = ("public.kill-a", "public.kill-b", "public.kill-c")


async def run(url: str, token: str, path: Path, turn: int) -> None:
    outbox = Outbox(path)
    async with Client(url, token, outbox=outbox) as client:

        async def writer(channel: str) -> None:
            number = 0
            while True:
                try:
                    await client.enqueue(channel, [turn, number])
                except OutboxFull:
                    await outbox.flush(1)
                    continue
                # Written at once: what stands in a buffer is lost with the process.
                os.write(1, f"{channel} {turn} {number}\n".encode())
                number += 1

        await asyncio.gather(*(writer(channel) for channel in CHANNELS))


def main() -> None:
    """Enqueue until killed."""
    asyncio.run(run(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])))


if __name__ == "__main__":
    main()
