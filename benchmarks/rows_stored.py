"""A log that is full: as fast as an empty one, and open at once.

Two hubs run side by side, one on an empty log, one on a log that was filled over
10,000 channels, of which the k-th is used 1/k times as often as the first, each
event with a dedupe key of its own.
"""

import json
import secrets
import time
from collections import defaultdict

from benchmarks import load
from benchmarks.load.fanout import payload
from benchmarks.machine import come_to_rest, cpu_s
from benchmarks.peers import Missing, Server, start
from benchmarks.plan import Plan
from benchmarks.row import Row, Target, compare
from benchmarks.rows_fanout import UNIT, WINDOW
from benchmarks.wires.websocket import Hub, read_frame

CHANNELS = 10_000
WS_WINDOW = 2048
FLAT = 0.8  # of the speed on an empty log: flat within 20 %
START_MAX_S = 1.0
REST_MAX_S = 20.0
FILL_CHUNK = 1_000_000

Values = dict[tuple[str, str], list[float]]


def rows(plan: Plan) -> list[Row]:
    """Fan-out and publishing on a full log against an empty one; start on a full log."""
    values: Values = defaultdict(list)
    starts: list[float] = []
    stored, note, fill = 0, "", ""
    try:
        stored, fill = _fill(plan)
        _side_by_side(plan, values)
        starts = _starts(plan)
    except (Missing, load.LoadFailed, OSError) as error:
        plan.say(str(error))
        note = str(error)
    return [
        compare(
            f"fan-out {plan.crowds[0]}, pipelined, {stored:,} events stored",
            unit=UNIT,
            ours=values["full", "fan-out"],
            peer="the hub, empty log",
            theirs=values["empty", "fan-out"],
            target=Target(of="ratio", least=FLAT),
            note=note,
        ),
        compare(
            f"publish to {CHANNELS:,} channels, unique keys, {stored:,} events stored",
            unit="events/s",
            ours=values["full", "publish"],
            peer="the hub, empty log",
            theirs=values["empty", "publish"],
            target=Target(of="ratio", least=FLAT),
            note=note or fill,
        ),
        compare(
            f"publish and index behind, unique keys, {stored:,} events stored",
            unit="events/cpu-s",
            ours=values["full", "publish cpu"],
            peer="the hub, empty log",
            theirs=values["empty", "publish cpu"],
            target=Target(of="ratio", least=FLAT),
            note=note,
        ),
        compare(
            f"start with {stored:,} events stored, to the first answered publish",
            unit="s",
            ours=starts,
            target=Target(of="value", most=START_MAX_S),
            note=note,
        ),
    ]


def _fill(plan: Plan) -> tuple[int, str]:
    """Fill the log of the full hub within the plan's time; how many events, and how fast."""
    server = start("hub sqlite", plan.folder / "full")
    stored, speeds, began = 0, [], time.monotonic()
    try:
        while stored < plan.events:
            left_s = plan.fill_max_s - (time.monotonic() - began)
            if left_s <= 1:
                break
            result = load.run(
                "ws_publish",
                server,
                count=min(FILL_CHUNK, plan.events - stored),
                seconds=left_s,
                window=WS_WINDOW,
                channels=CHANNELS,
                key=secrets.token_hex(6),
            )
            stored += result["acked"]
            speeds.append(result["acked"] / result["wall_s"])
            plan.say(f"stored {stored:,} events, {speeds[-1]:,.0f}/s")
    finally:
        server.close()
    note = f"filled at {speeds[0]:,.0f}/s at first, {speeds[-1]:,.0f}/s at last"
    if stored < plan.events:
        note += f"; {plan.events:,} were asked for, the time was up"
    return stored, note


def _side_by_side(plan: Plan, values: Values) -> None:
    servers: dict[str, Server] = {}
    try:
        for name in ("full", "empty"):
            servers[name] = start("hub sqlite", plan.folder / name)
        for number in range(plan.rounds):
            for name in plan.shuffled(list(servers), number):
                plan.say(f"stored round {number + 1}/{plan.rounds}: {name} log")
                _measure(plan, name, servers[name], values)
    finally:
        for server in servers.values():
            server.close()


def _measure(plan: Plan, name: str, server: Server, values: Values) -> None:
    phase = {"mode": "pipelined", "seconds": plan.phase_s, "window": WINDOW}
    # What it still does for earlier events must not be charged to these.
    if not come_to_rest(server.pid, longest_s=REST_MAX_S):
        plan.say(f"the hub on the {name} log was still busy after {REST_MAX_S:.0f} s")
    result = load.run("fanout", server, subscribers=plan.crowds[0], phases=[phase])
    done = result["phases"][0]
    values[name, "fan-out"].append(done["deliveries"] / max(done["server_cpu_s"], 0.01))
    come_to_rest(server.pid, longest_s=REST_MAX_S)
    before_s = cpu_s(server.pid)
    result = load.run(
        "ws_publish",
        server,
        count=plan.flat_events,
        window=WS_WINDOW,
        channels=CHANNELS,
        key=secrets.token_hex(6),
    )
    # The indices are filled behind: the whole cost is known when the hub rests again.
    come_to_rest(server.pid, longest_s=REST_MAX_S)
    values[name, "publish"].append(result["acked"] / result["wall_s"])
    values[name, "publish cpu"].append(result["acked"] / max(cpu_s(server.pid) - before_s, 0.01))


def _starts(plan: Plan) -> list[float]:
    """Seconds from the start of the process to the answer to a first publish."""
    seconds = []
    for number in range(plan.rounds):
        plan.say(f"start {number + 1}/{plan.rounds} on the full log")
        began = time.monotonic()
        server = start("hub sqlite", plan.folder / "full")
        try:
            client = Hub(port=server.port, token=server.token)
            connection = client.publisher()
            connection.send(client.frame(payload(200)))
            answer: dict[str, object] = {}
            while answer.get("id") != 2:
                answer = json.loads(read_frame(connection)[1])
            if answer.get("type") != "ok":
                raise OSError(f"the first publish was refused: {answer}")
            seconds.append(time.monotonic() - began)
            connection.socket.close()
        finally:
            server.close()
    return seconds
