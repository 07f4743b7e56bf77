"""A publish from the command line, from the start of the process to its end."""

import os
import shutil
import subprocess
import time
from pathlib import Path

from benchmarks.machine import cores, pin
from benchmarks.peers import Missing, Server, start
from benchmarks.peers import hub as hub_peer
from benchmarks.peers import node as node_peer
from benchmarks.plan import Plan
from benchmarks.row import Row, Target, compare

MS_MAX = 150
CHANNEL = "public.bench"
NODE_CLIENT = Path(node_peer.__file__).with_name("publish.js")
NODE_NOTE = "no claw.events CLI of npm here: beside a plain node script with ws, same hub"


def rows(plan: Plan) -> list[Row]:
    """`claw pub` beside node, both against the same hub, one after the other."""
    ours: list[float] = []
    theirs: list[float] = []
    peer, note = "node + ws", NODE_NOTE
    try:
        server = start("hub memory", plan.folder / "cli")
    except Missing as reason:
        plan.say(f"no command-line rows: {reason}")
        return _rows(ours, theirs, peer, str(reason))
    try:
        other = _npm_client(server)
        if other is not None:
            peer, note = "claw.events (npm)", ""
        else:
            try:
                other = _node_client(server)
            except Missing as reason:
                note = str(reason)
        for number in range(plan.cold_starts + 1):
            plan.say(f"cold start {number}/{plan.cold_starts}")
            times = [_timed(_claw(server), server)]
            if other is not None:
                times.append(_timed(other, server))
            if number == 0:
                continue  # the first one reads the programs from disk
            ours.append(times[0])
            theirs += times[1:]
    finally:
        server.close()
    return _rows(ours, theirs, peer, note)


def _rows(ours: list[float], theirs: list[float], peer: str, note: str) -> list[Row]:
    name = "claw pub, process start to exit"
    return [
        compare(name, unit="ms", ours=ours, target=Target(of="value", most=MS_MAX), note=note),
        compare(
            name,
            unit="ms",
            ours=ours,
            peer=peer,
            theirs=theirs,
            target=Target(of="ratio", most=1),
            note=note,
        ),
    ]


def _claw(server: Server) -> list[str]:
    return [*hub_peer.command(), "pub", CHANNEL, "hello"]


def _npm_client(server: Server) -> list[str] | None:
    found = shutil.which("claw.events", path=os.environ.get("PATH"))
    return None if found is None else [found, "pub", CHANNEL, "hello"]


def _node_client(server: Server) -> list[str]:
    url = f"ws://127.0.0.1:{server.port}/api/v1/events/stream"
    return [node_peer.program(), str(NODE_CLIENT), url, server.token, CHANNEL, "hello"]


def _timed(command: list[str], server: Server) -> float:
    """Milliseconds; raises Missing if the command did not publish."""
    _, core = cores()
    environment = {
        **os.environ,
        "CLAWNET_SERVER": f"http://127.0.0.1:{server.port}",
        "CLAWNET_TOKEN": server.token,
    }
    began = time.perf_counter()
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, preexec_fn=lambda: pin(core)
    )
    took_ms = (time.perf_counter() - began) * 1e3
    if done.returncode:
        raise Missing(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()[-200:]}")
    return took_ms
