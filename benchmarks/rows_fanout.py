"""Fan-out: deliveries per second of server CPU, hub and peers in turns.

The memory engine is held against servers that store nothing, the sqlite engine,
which acknowledges after fsync, against those and against servers that store.
"""

from collections import defaultdict
from statistics import median

from benchmarks import load
from benchmarks.peers import STARTERS, Missing, Server, together
from benchmarks.plan import Plan
from benchmarks.row import Row, Target, compare

# In flight at most; the generator sends half of it as one write. 64 is also what the hub
# takes from one connection in one turn, so no server is given a batch that another is not.
WINDOW = 128
UNIT = "deliveries/cpu-s"
LIMIT = "C broadcaster"  # what the kernel's send() leaves to anyone

# (ours, mode) -> peer -> the least ratio; None: shown for orientation.
TARGETS: dict[tuple[str, str], dict[str, float | None]] = {
    ("hub memory", "pipelined"): {
        "nats-server": 1.5,
        "Redis pub/sub": 1.0,
        "C broadcaster": 0.6,
        "socket.io": 25,
        "mosquitto": 25,
        "node ws": None,
    },
    ("hub memory", "single"): {"nats-server": 1.0, "C broadcaster": 0.7},
    ("hub sqlite", "pipelined"): {
        "nats-server": 1.0,
        "JetStream (file)": 5,
        "JSON-file relay": 10,
    },
    ("hub sqlite", "single"): {
        "nats-server": 1.0,
        "JetStream (file)": 5,
        "JSON-file relay": 10,
    },
}
MODES = {"pipelined": "pipelined", "single": "one in flight"}

Values = dict[tuple[str, int, str], list[float]]


def rows(plan: Plan) -> list[Row]:
    """All fan-out rows."""
    values: Values = defaultdict(list)
    notes: dict[str, str] = {}
    with together(list(STARTERS), plan.folder / "fanout") as servers:
        running = {}
        for name, server in servers.items():
            if isinstance(server, Missing):
                notes[name] = str(server)
                plan.say(f"fan-out without {name}: {server}")
            else:
                running[name] = server
        for number in range(plan.rounds):
            for name in plan.shuffled(list(running), number):
                plan.say(f"fan-out round {number + 1}/{plan.rounds}: {name}")
                _measure(plan, running[name], values, notes)
    return [
        _row(ours, mode, peer, least, crowd, values, notes)
        for (ours, mode), peers in TARGETS.items()
        for crowd in plan.crowds
        for peer, least in peers.items()
    ]


def _measure(plan: Plan, server: Server, values: Values, notes: dict[str, str]) -> None:
    phases = [
        {"mode": "single", "seconds": plan.phase_s},
        {"mode": "pipelined", "seconds": plan.phase_s, "window": WINDOW},
    ]
    for crowd in plan.crowds:
        try:
            result = load.run("fanout", server, subscribers=crowd, phases=phases)
        except load.LoadFailed as error:
            notes[server.name] = str(error)
            plan.say(str(error))
            continue
        for done in result["phases"]:
            cpu_s = max(done["server_cpu_s"], 0.01)  # the kernel counts in such steps
            values[server.name, crowd, done["mode"]].append(done["deliveries"] / cpu_s)


def _row(
    ours: str,
    mode: str,
    peer: str,
    least: float | None,
    crowd: int,
    values: Values,
    notes: dict[str, str],
) -> Row:
    reasons = [notes[name] for name in (ours, peer) if name in notes]
    limit, theirs = values[LIMIT, crowd, mode], values[peer, crowd, mode]
    if least is not None and limit and theirs:
        reach = median(limit) / median(theirs)
        if reach < least:
            reasons.append(
                f"{least:g} x {peer} ({MODES[mode]}, {crowd}) is out of reach here: "
                f"the bare C broadcaster is at {reach:.2g} x"
            )
    return compare(
        f"fan-out {crowd}, {MODES[mode]}, {ours.removeprefix('hub ')}",
        unit=UNIT,
        ours=values[ours, crowd, mode],
        peer=peer,
        theirs=theirs,
        target=Target(of="ratio", least=least) if least is not None else None,
        note="; ".join(reasons),
    )
