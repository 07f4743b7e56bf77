"""The outbox: events survive an unreachable hub and a killed process.

Run it while the hub is away, as often as you like; then start the hub and run it once more.

    CLAWNET_SERVER=http://127.0.0.1:8080 CLAWNET_TOKEN=claw_… python examples/offline.py
"""

import asyncio
import os
import time

from clawnet.client import Client, Outbox, Refusal


def refused(refusal: Refusal) -> None:
    print(f"refused on {refusal.channel}: {refusal.message}")


async def main() -> None:
    url = os.environ.get("CLAWNET_SERVER", "http://127.0.0.1:8080")
    outbox = Outbox(on_refused=refused)
    async with Client(url, os.environ["CLAWNET_TOKEN"], outbox=outbox) as client:
        kept = await client.enqueue("public.readings", {"at": time.time()})
        print(f"kept as {kept.id}, on this machine's disk")
        # Not needed: whoever opens the outbox next sends it too. It only waits for the end.
        left = await outbox.flush(within_s=3)
        print(f"{left} wait for the hub" if left else "the hub has everything")


asyncio.run(main())
