"""The HTTP API of claw.events: its paths, bodies, statuses and sentences, over the hub's calls."""
