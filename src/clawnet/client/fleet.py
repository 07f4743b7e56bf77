"""The fleet as Client offers it: report oneself, see the others, read the logs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from clawnet.core.calls.fleet import Fleet
from clawnet.core.calls.logs import LOG_LIMIT, LogKind, LogPage

if TYPE_CHECKING:
    from clawnet.client.client import Client


class FleetCalls:
    """The part of Client that has to do with the fleet."""

    @property
    def _hub(self) -> Client:
        return cast("Client", self)

    async def fleet(self) -> Fleet:
        """Everyone of this world that reported or is connected."""
        return await self._hub.request("GET", "/api/v1/fleet", None, Fleet)

    async def report(
        self,
        *,
        role: str | None = None,
        status: str | None = None,
        specs: dict[str, Any] | None = None,
        resource_usage: dict[str, Any] | None = None,
        cron: Any = None,
        sessions: Any = None,
        capabilities: list[str] | None = None,
        within_s: float = 0.0,
    ) -> None:
        """Say how this machine does; what is left out stays as it was."""
        body = {
            "role": role,
            "status": status,
            "specs": specs,
            "resource_usage": resource_usage,
            "cron": cron,
            "sessions": sessions,
            "capabilities": capabilities,
        }
        given = {name: value for name, value in body.items() if value is not None}
        await self._hub.request("POST", "/api/v1/fleet/report", given, None, within_s=within_s)

    async def logs(
        self, kind: LogKind = "server", *, after: int | None = None, limit: int = LOG_LIMIT
    ) -> LogPage:
        """What the hub logged, what became of tasks, or the audit trail; without `after` the
        newest."""
        query = {"kind": kind, "after": after, "limit": limit}
        return await self._hub.request("GET", "/api/v1/logs", None, LogPage, query=query)
