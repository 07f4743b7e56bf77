"""Schemathesis against the real program: what /openapi.json says is what the hub does.

Positive and negative requests for every operation, with a fixed seed. It runs as a process of its
own: its plugin for pytest and its threads stay out of this suite.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.cli.program import Program, running_hub

CONFIG = """\
seed = 7
workers = 1
continue-on-failure = true
max-failures = 20
request-timeout = 30.0
warnings = false
headers = {{ Authorization = "Bearer {token}" }}
parameters = {{ "query.wait" = 0 }}

[reports]
directory = "{folder}"

[generation]
mode = "all"
max-examples = {examples}
deterministic = true
no-shrink = true
database = "none"
unique-inputs = true
with-security-parameters = true

[phases.examples]
enabled = false
[phases.stateful]
enabled = false
[phases.coverage]
# One that other paths have, one that none has: the rest goes the same way.
unexpected-methods = ["DELETE", "TRACE"]

# What a type cannot say (a channel's rule, an id that must exist) may be refused.
[checks.positive_data_acceptance]
enabled = false
[checks.ensure_resource_availability]
enabled = false
[checks.use_after_free]
enabled = false
"""

EXAMPLES = 3
"""For each operation and kind, beside the values at the bounds, which are all tried."""
ENDLESS = (
    "/api/v1/events/stream",
    "/sub/{channel}",
    "/connection/http_stream",
    "/connection/sse",
    "/connection/uni_http_stream",
    "/connection/uni_sse",
)
"""Streams have no end to wait for."""
WHOLE = ("/api/v1/admin/backup",)
"""Copies the whole log for every request."""
ALWAYS_200 = ("/proxy/connect", "/proxy/publish", "/proxy/refresh", "/proxy/subscribe")
"""Centrifugo wants its refusals with 200, whatever it asked."""
FAREWELL = ("/auth/revoke", "/api/auth/revoke", "/api/auth/logout")
"""End the token that all requests show."""


def test_the_hub_does_what_its_openapi_document_says(tmp_path: Path) -> None:
    program = Program(tmp_path / "home")
    # Many requests come from one account; that they are slowed down is tested elsewhere.
    program.environment["CLAWNET_LIMITS_ENABLED"] = "false"
    # In memory: thousands of writes to a disk would take a third of the time.
    with running_hub(program, tmp_path / "data", "--engine", "memory") as hub:
        config = tmp_path / "schemathesis.toml"
        config.write_text(CONFIG.format(token=hub.admin_token, folder=tmp_path, examples=EXAMPLES))
        excluded = [
            word
            for path in (*ENDLESS, *WHOLE, *ALWAYS_200, *FAREWELL)
            for word in ("--exclude-path", path)
        ]
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "from schemathesis.cli import schemathesis; schemathesis()",
                "--config-file",
                str(config),
                "run",
                f"{hub.url}/openapi.json",
                *excluded,
            ],
            capture_output=True,
            text=True,
            timeout=100,
            cwd=tmp_path,
            env={**program.environment, "NO_COLOR": "1"},
            check=False,
        )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-4_000:]
