"""Ask and answer: a question names a correlation id, and its answer carries the same one.

With reply_within_s the hub watches the time: silence becomes an `expectation.missed` event in
the asker's inbox, also when the asker was restarted meanwhile. Here one program plays both.

    CLAWNET_SERVER=http://127.0.0.1:8080 CLAWNET_TOKEN=claw_… python examples/ask.py
"""

import asyncio
import os
import uuid

from clawnet.client import Client, data_of
from clawnet.core.events import Event

QUESTIONS, ANSWERS = "public.questions", "public.answers"


async def answer(client: Client, question: Event) -> None:
    square = data_of(question)["square"] ** 2
    mine = question.correlation_id
    await client.publish(ANSWERS, square, correlation_id=mine, causation_id=question.id)


async def main() -> None:
    url = os.environ.get("CLAWNET_SERVER", "http://127.0.0.1:8080")
    async with Client(url, os.environ["CLAWNET_TOKEN"]) as client:
        async with client.subscribe(ANSWERS) as answers, client.subscribe(QUESTIONS) as questions:
            mine = uuid.uuid4().hex
            question = {"square": 12}
            await client.publish(QUESTIONS, question, correlation_id=mine, reply_within_s=30)
            await answer(client, await anext(questions))
            async for found in answers:
                if found.correlation_id == mine:
                    print(f"the answer is {data_of(found)}")
                    break


asyncio.run(main())
