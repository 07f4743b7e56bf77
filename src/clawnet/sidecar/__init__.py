"""The sidecar: takes work for an OpenClaw on this machine, and reports of it (claw sidecar)."""
