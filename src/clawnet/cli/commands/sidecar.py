"""claw sidecar: make this machine's OpenClaw, or its allowed commands, an agent of a fleet."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clawnet.cli.options import Command, invocation
from clawnet.core.errors import BadConfiguration, ClawError

if TYPE_CHECKING:
    from clawnet.cli.invocation import Invocation
    from clawnet.sidecar.settings import ModelSettings, SidecarSettings


@click.command(cls=Command, short_help="Let this machine take a fleet's work.")
@click.option("--agent-id", envvar="AGENT_ID", metavar="ID", help="Who this is (AGENT_ID).")
@click.option(
    "--role",
    envvar="AGENT_ROLE",
    default="worker",
    metavar="ROLE",
    show_default=True,
    help="The role it shows (AGENT_ROLE).",
)
@click.option(
    "--secret",
    envvar=["CLAWNET_SECRET", "CLAWNET_SECRET_KEY"],
    metavar="SECRET",
    help="The fleet's shared secret (CLAWNET_SECRET); better not on the command line.",
)
@click.option(
    "--openclaw-bin",
    envvar="OPENCLAW_BIN",
    default="openclaw",
    metavar="FILE",
    show_default=True,
    help="The OpenClaw to run (OPENCLAW_BIN).",
)
@click.option(
    "--allow",
    multiple=True,
    metavar="WORDS",
    help="First words of a command that may be executed; again for more (CLAWNET_EXEC_ALLOWLIST,"
    " separated by commas). Nothing is executed without one.",
)
@click.option(
    "--deny",
    multiple=True,
    metavar="TEXT",
    help="Commands with this text in them are never executed; again for more"
    " (CLAWNET_EXEC_DENYLIST, separated by commas).",
)
@click.option(
    "--exec-timeout",
    envvar="CLAWNET_EXEC_TIMEOUT",
    type=click.FloatRange(0.1),
    default=300.0,
    metavar="S",
    show_default=True,
    help="How long an executed command may run at most (CLAWNET_EXEC_TIMEOUT).",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 64),
    default=4,
    metavar="N",
    show_default=True,
    help="How many tasks run at a time.",
)
@click.option(
    "--health-port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Answer /healthz and /readyz on this port of 127.0.0.1.",
)
@click.option(
    "--orchestrate",
    is_flag=True,
    help="Let Metis, Prometheus and Momus look at every OpenClaw task first.",
)
@click.option(
    "--model-url",
    envvar="CLAWNET_MODEL_URL",
    metavar="URL",
    help="Their OpenAI-compatible endpoint (CLAWNET_MODEL_URL); its key is CLAWNET_MODEL_KEY.",
)
@click.option(
    "--model", envvar="CLAWNET_MODEL", metavar="NAME", help="Their model (CLAWNET_MODEL)."
)
@click.option(
    "--state-dir", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
    help="Where token, journal and log lie; $XDG_STATE_HOME/clawnet/sidecar/ID otherwise.",
)  # fmt: skip
def sidecar(
    agent_id: str | None,
    role: str,
    secret: str | None,
    openclaw_bin: str,
    allow: tuple[str, ...],
    deny: tuple[str, ...],
    exec_timeout: float,
    concurrency: int,
    health_port: int | None,
    orchestrate: bool,
    model_url: str | None,
    model: str | None,
    state_dir: Path | None,
) -> int:
    """Take tasks from the hub, run them here, and tell how the machine does.

    OpenClaw tasks are turns of the OpenClaw on this machine; commands are executed only if they
    begin with words that --allow names. It joins with its token (CLAWNET_TOKEN, or the one that
    claw join kept), else with the shared secret, and keeps the token it is given. It runs until
    SIGTERM or Ctrl-C; whatever runs then is ended and told.
    """
    from clawnet.sidecar.settings import (
        SidecarSettings,
        agent_id_of,
        listed,
        prefixes_of,
        state_dir_of,
    )

    at = invocation()
    server = _server(at)
    token = _explicit_token(at)
    if agent_id is None:
        agent_id, token = _account(at)
    agent_id = agent_id_of(agent_id)
    settings = SidecarSettings(
        server=server,
        agent_id=agent_id,
        token=token,
        fallback_token=at.effective_token,
        secret=secret or None,
        role=role,
        state_dir=state_dir or state_dir_of(agent_id),
        openclaw_bin=openclaw_bin,
        exec_allow=prefixes_of([*allow, *listed(at.environment.get("CLAWNET_EXEC_ALLOWLIST"))]),
        exec_deny=(*deny, *listed(at.environment.get("CLAWNET_EXEC_DENYLIST"))),
        exec_timeout_s=exec_timeout,
        concurrency=concurrency,
        health_port=health_port,
        is_orchestrating=orchestrate,
        model=_model(model_url, model),
    )
    if settings.is_orchestrating and settings.model is None:
        raise BadConfiguration(
            "To orchestrate there must be a model.",
            next="Set CLAWNET_MODEL_URL and CLAWNET_MODEL (and CLAWNET_MODEL_KEY).",
        )
    try:
        return _run(settings)
    except ClawError as error:
        raise at.explained(error) from None


def _server(at: Invocation) -> str:
    """The hub that was named: there is no default for a machine that will run what it is told."""
    is_named = (
        at.server
        or at.environment.get("CLAWNET_SERVER")
        or at.environment.get("CLAW_API_URL")
        or at.credentials.server
    )
    if not is_named:
        raise BadConfiguration(
            "No hub is named.", next="Set CLAWNET_SERVER (or --server) to the hub's address."
        )
    return at.address.url


def _explicit_token(at: Invocation) -> str | None:
    names = ("CLAWNET_TOKEN", "CLAW_TOKEN", "CLAWNET_TOKEN_FILE")
    if at.token is not None or any(at.environment.get(name) for name in names):
        return at.effective_token
    return None


def _account(at: Invocation) -> tuple[str, str]:
    """Whose token it is, if no agent was named."""
    token = at.effective_token
    if token is None:
        raise BadConfiguration(
            "No agent is named.", next="Set AGENT_ID (or --agent-id) to the agent's id."
        )
    found = (at.call("GET", "/api/v1/me") or {}).get("account") or {}
    return str(found.get("id", "")), token


def _model(url: str | None, name: str | None) -> ModelSettings | None:
    from clawnet.sidecar.settings import ModelSettings

    if not url and not name:
        return None
    if not url or not name:
        raise BadConfiguration(
            "Of a model both the address and the name are needed.",
            next="Set CLAWNET_MODEL_URL and CLAWNET_MODEL.",
        )
    if not url.startswith(("http://", "https://")):
        raise BadConfiguration(
            f"{ascii(url[:200])} is no address of a model.", next="Give an http(s):// address."
        )
    return ModelSettings(base_url=url, model=name, key=os.environ.get("CLAWNET_MODEL_KEY") or None)


def _run(settings: SidecarSettings) -> int:
    import asyncio
    import logging
    import signal

    from clawnet.cli.exits import DONE
    from clawnet.cli.terminal import note
    from clawnet.sidecar.sidecar import Sidecar

    logging.getLogger("websockets").setLevel(logging.CRITICAL)
    # Its log is a file of its own; a person reads the sentences.
    logging.getLogger("clawnet.sidecar").propagate = False
    ended_by: list[int] = []

    async def until_over() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def end(number: int) -> None:
            ended_by.append(number)
            stop.set()

        ends = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup has it ignored
            # A terminal that is closed: what runs has no terminal and would go on without us.
            ends.append(signal.SIGHUP)
        for number in ends:
            loop.add_signal_handler(number, end, number)
        await Sidecar(settings, say=lambda text: note(f"claw: {text}")).run(stop)

    with asyncio.Runner() as runner:
        runner.run(until_over())
    if ended_by and ended_by[0] == signal.SIGINT:
        raise KeyboardInterrupt
    return DONE
