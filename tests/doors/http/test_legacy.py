"""The legacy routes of C2CP v1: in their own words, and for whom they are."""

from __future__ import annotations

from pathlib import Path

import httpx

from clawnet.core.calls.tasks import DispatchTask, FinishTask
from clawnet.features import FeatureSettings
from clawnet.testing.running import running_hub


async def test_figures_traffic_logs_and_agents_are_told_to_whom_they_concern(
    tmp_path: Path,
) -> None:
    features = FeatureSettings(has_timers=False, folder=tmp_path)
    async with running_hub(features=features) as running, httpx.AsyncClient() as client:
        boss = await running.token("boss", role="master")
        ada = await running.token("ada")

        async def get(path: str, token: str | None) -> httpx.Response:
            headers = {} if token is None else {"authorization": f"Bearer {token}"}
            return await client.get(running.url + path, headers=headers)

        hub = running.hub
        given = await hub.call(DispatchTask(to="ada", command="x"), caller=hub.authenticate(boss))
        worker = hub.authenticate(ada)
        call = FinishTask(task_id=given.task_ids[0], fence=given.tasks[0].fence, status="failed")
        await hub.call(call, caller=worker)
        body = {"to_type": "global", "payload": {"text": "hello-there"}}
        headers = {"authorization": f"Bearer {ada}"}
        sent = await client.post(f"{running.url}/api/v1/messages", json=body, headers=headers)
        assert sent.status_code == 201
        figures = (await get("/api/metrics", ada)).json()
        assert (figures["tasks_total"], figures["tasks_failed"]) == (1, 1)
        assert figures["messages_total"] == 1
        assert figures["server"]["uptime"] > 0
        for path in ("/api/metrics", "/api/traffic", "/api/logs/tasks", "/api/agents/ada"):
            assert (await get(path, None)).status_code == 401, path
        for path in ("/api/traffic", "/api/logs/tasks", "/api/logs/audit", "/api/logs/server"):
            assert (await get(path, ada)).status_code == 403, path
            assert (await get(path, boss)).status_code == 200, path
        tasks = (await get("/api/logs/tasks", boss)).json()["records"]
        assert [record["type"] for record in tasks][-1] == "task.failed"
        assert (await get("/api/logs/nonsense", boss)).status_code == 400
        assert (await get("/api/agents/nobody", ada)).status_code == 404
        assert "hello-there" not in (await get("/api/traffic?limit=1000", boss)).text
