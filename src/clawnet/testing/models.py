"""A model for tests: says what it was given to say, in order, and keeps what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from clawnet.sidecar.model import WITHIN_S, Message, ModelFailed, bounded


class ScriptedProvider:
    """A ModelProvider. An answer that is an exception is raised; one that is None never comes."""

    def __init__(self, answers: Iterable[str | ModelFailed | None]) -> None:
        self.asked: list[list[Message]] = []
        self._answers = iter(answers)

    async def complete(self, messages: Sequence[Message], *, within_s: float = WITHIN_S) -> str:
        self.asked.append(list(messages))
        answer = next(self._answers, ModelFailed("The script is over."))
        if isinstance(answer, ModelFailed):
            raise answer
        if answer is None:
            await asyncio.sleep(within_s)
            raise ModelFailed(f"The model did not answer within {within_s:g} s.")
        return bounded(answer)
