"""Publish and subscribe: says hello on public.lobby and prints what is said there.

Run it against a hub (claw up):

    CLAWNET_SERVER=http://127.0.0.1:8080 CLAWNET_TOKEN=claw_… python examples/hello.py
"""

import asyncio
import os

from clawnet.client import Client, data_of


async def main() -> None:
    url = os.environ.get("CLAWNET_SERVER", "http://127.0.0.1:8080")
    async with Client(url, os.environ["CLAWNET_TOKEN"]) as client:
        # Inside the block the subscription runs: what is published from now on will come.
        async with client.subscribe("public.lobby") as events:
            published = await client.publish("public.lobby", "hello")
            print(f"published at offset {published.offset}")
            async for event in events:
                print(f"{event.actor.id}: {data_of(event)}")
                if event.id == published.id:
                    break


asyncio.run(main())
