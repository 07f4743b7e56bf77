"""Programs that join a hub to something else, each a process of its own."""
