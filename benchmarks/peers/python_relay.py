"""A Socket.IO relay of python-socketio's server on uvicorn, each message acknowledged by each.

What it offers: a room's broadcast, or a send to one client with a callback. With acknowledgements
it has to be the latter, for each client on its own. Usage: python_relay.py PORT
"""

import sys
from typing import Any

import socketio
import uvicorn

ROOM = "bench"
server = socketio.AsyncServer(
    async_mode="asgi", transports=["websocket"], ping_interval=600, max_http_buffer_size=10**7
)
members: set[str] = set()
unacknowledged: set[tuple[str, int]] = set()
said = 0


@server.on("sub")
async def sub(sid: str) -> None:
    members.add(sid)


@server.on("pub")
async def pub(sid: str, data: Any) -> dict[str, bool]:
    global said
    said += 1
    number = said
    for member in list(members):
        unacknowledged.add((member, number))

        def handled(*_: Any, key: tuple[str, int] = (member, number)) -> None:
            unacknowledged.discard(key)

        await server.emit("msg", data, to=member, callback=handled)
    return {"ok": True}


@server.event
async def disconnect(sid: str, *_: Any) -> None:
    members.discard(sid)


if __name__ == "__main__":
    uvicorn.run(
        socketio.ASGIApp(server), host="127.0.0.1", port=int(sys.argv[1]), log_level="error"
    )
