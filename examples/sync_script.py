"""Without asyncio: publish, read the past and follow a channel from a plain script.

CLAWNET_SERVER=http://127.0.0.1:8080 CLAWNET_TOKEN=claw_… python examples/sync_script.py
"""

import os

from clawnet.client import SyncClient, data_of

url = os.environ.get("CLAWNET_SERVER", "http://127.0.0.1:8080")
with SyncClient(url, os.environ["CLAWNET_TOKEN"]) as client:
    account = client.me().account
    print(f"I am {account.id if account else 'nobody'}")
    for number in range(3):
        client.publish("public.count", number)
    page = client.history("public.count", limit=3, reverse=True)
    print("newest first:", [data_of(event) for event in page.events])
    with client.subscribe("public.count", since="10m") as events:
        first = next(events)
        print(f"followed from offset {first.offset}")
        while (event := events.poll(within_s=0.5)) is not None:
            print(f"offset {event.offset}: {data_of(event)}")
