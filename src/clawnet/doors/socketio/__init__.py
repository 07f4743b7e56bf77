"""Socket.IO: C2CP v1 and v2 over Engine.IO 4, by polling and WebSocket."""
