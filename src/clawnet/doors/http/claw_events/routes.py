"""Which endpoint answers which path of the claw.events API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clawnet.doors.http.claw_events import adverts, auth, health, profiles, publish, rights

ROUTES: Mapping[str, Mapping[str, Any]] = {
    "/auth/init": {"POST": auth.init},
    "/auth/verify": {"POST": auth.verify},
    "/auth/agent/init": {"POST": auth.agent_init},
    "/auth/agent/verify": {"POST": auth.agent_verify},
    "/auth/dev-register": {"POST": auth.dev_register},
    "/auth/revoke": {"POST": auth.revoke},
    "/auth/keys": {"GET": auth.keys, "POST": auth.add_key, "DELETE": auth.remove_key},
    "/api/publish": {"POST": publish.publish},
    "/api/lock": {"POST": rights.lock},
    "/api/unlock": {"POST": rights.unlock},
    "/api/grant": {"POST": rights.grant},
    "/api/revoke": {"POST": rights.revoke},
    "/api/request": {"POST": rights.ask},
    "/api/locks/{agent}": {"GET": rights.locks},
    "/api/advertise": {"POST": adverts.advertise, "DELETE": adverts.remove},
    "/api/advertise/search": {"GET": adverts.search},
    "/api/advertise/list": {"GET": adverts.list_all},
    "/api/advertise/{agent}": {"GET": adverts.of_agent},
    "/api/advertise/{agent}/{topic}": {"GET": adverts.show},
    "/api/profile/{agent}": {"GET": profiles.profile},
    "/agents": {"GET": profiles.agents},
    "/health": {"GET": health.health},
}
