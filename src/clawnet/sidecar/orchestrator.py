"""The Olympic Orchestrator: Metis states, Prometheus plans, Momus attacks, then it is done.

Momus sends a plan back at most ROUNDS_MAX times; a plan that never passed is not carried out. Each
stage is told as it begins and as it ends. What the models say is data for the next stage, and
becomes an action only through the executor that was given.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from clawnet.sidecar.journal import Result
from clawnet.sidecar.model import Message, ModelFailed, ModelProvider
from clawnet.sidecar.outputs import ERROR_MAX_BYTES, cut
from clawnet.sidecar.prompts import EXECUTION, METIS, MOMUS, PROMETHEUS, is_passed, prompt

ROUNDS_MAX = 3
STAGE_WITHIN_S = 120.0
_MARKERS = 8

StageName = Literal["metis", "prometheus", "momus", "execution"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage as it is shown: where it stands, and what it said when it ended."""

    stage: StageName
    round: int
    state: Literal["begun", "done", "passed", "sent_back", "failed"]
    text: str = ""


OnStage = Callable[[Stage], Awaitable[None]]
Execute = Callable[[str], Awaitable[Result]]
Markers = Callable[[], list[str]]


def random_markers() -> list[str]:
    return [secrets.token_hex(16) for _ in range(_MARKERS)]


class Orchestrator:
    """One task at a time through the stages; see the module.

    `execute` carries a prompt out (a turn of OpenClaw); without it the model itself answers.
    """

    def __init__(
        self,
        model: ModelProvider,
        *,
        on_stage: OnStage,
        execute: Execute | None = None,
        markers: Markers = random_markers,
        rounds_max: int = ROUNDS_MAX,
    ) -> None:
        self._model = model
        self._on_stage = on_stage
        self._execute = execute
        self._markers = markers
        self._rounds_max = rounds_max

    async def run(self, task: str) -> Result:
        """How it ended. Cancelled by its owner when the task's time is over."""
        try:
            goal = await self._stage("metis", 1, METIS, {"task": task})
            plan = await self._planned(task, goal)
            if plan is None:
                return Result(
                    status="failed",
                    error=f"Momus let no plan pass in {self._rounds_max} rounds; nothing was done.",
                )
            return await self._executed(task, goal, plan)
        except ModelFailed as error:
            return Result(status="failed", error=cut(str(error), ERROR_MAX_BYTES))

    async def _planned(self, task: str, goal: str) -> str | None:
        plan, critique = "", ""
        for number in range(1, self._rounds_max + 1):
            parts = {"task": task, "goal": goal}
            if plan:
                parts |= {"earlier plan": plan, "critique": critique}
            plan = await self._stage("prometheus", number, PROMETHEUS, parts)
            critique = await self._stage(
                "momus", number, MOMUS, {"task": task, "goal": goal, "plan": plan}
            )
            if is_passed(critique):
                return plan
        return None

    async def _executed(self, task: str, goal: str, plan: str) -> Result:
        parts = {"task": task, "goal": goal, "plan": plan}
        if self._execute is None:
            text = await self._stage("execution", 1, EXECUTION, parts)
            return Result(status="completed", output=cut(text))
        await self._on_stage(Stage(stage="execution", round=1, state="begun"))
        result = await self._execute(prompt(EXECUTION, parts, markers=self._markers()))
        await self._on_stage(
            Stage(
                stage="execution",
                round=1,
                state="done" if result.status == "completed" else "failed",
                text=result.output or result.error or "",
            )
        )
        return result

    async def _stage(
        self, name: StageName, number: int, instructions: str, parts: dict[str, str]
    ) -> str:
        await self._on_stage(Stage(stage=name, round=number, state="begun"))
        asked = prompt(instructions, parts, markers=self._markers())
        try:
            text = await self._model.complete([Message("user", asked)], within_s=STAGE_WITHIN_S)
        except ModelFailed as error:
            failed = Stage(stage=name, round=number, state="failed", text=str(error))
            await self._on_stage(failed)
            raise
        state: Literal["done", "passed", "sent_back"] = "done"
        if name == "momus":
            state = "passed" if is_passed(text) else "sent_back"
        await self._on_stage(Stage(stage=name, round=number, state=state, text=text))
        return text
