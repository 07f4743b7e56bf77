"""A durable consumer: the hub keeps its place, so nothing is missed while it does not run.

Adds up the numbers on public.numbers until it is sent "stop". Kill it and start it again: it
goes on where it was, and what it had not acknowledged comes again.

    CLAWNET_SERVER=http://127.0.0.1:8080 CLAWNET_TOKEN=claw_… python examples/worker.py
"""

import asyncio
import os

from clawnet.client import Client, data_of


async def main() -> None:
    url = os.environ.get("CLAWNET_SERVER", "http://127.0.0.1:8080")
    total = 0
    async with (
        Client(url, os.environ["CLAWNET_TOKEN"]) as client,
        client.consumer("adder", "public.numbers", since="all") as deliveries,
    ):
        async for received in deliveries:
            value = data_of(received.event)
            if isinstance(value, int):
                total += value
                print(f"total {total}", flush=True)
            # Only now: what is not acknowledged is delivered again, also after a crash.
            await received.ack()
            if value == "stop":
                break


asyncio.run(main())
