"""Entry of the generator process: a job on stdin, a result on stdout."""

import gc
import json
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.load import chat, fanout, idle, publish, reconnect, replay
from benchmarks.machine import raise_file_limit

KINDS: dict[str, Callable[..., dict[str, Any]]] = {
    "fanout": fanout.fan_out,
    "http_publish": publish.http_publish,
    "ws_publish": publish.ws_publish,
    "replay": replay.replay,
    "idle": idle.idle,
    "connects": reconnect.connects,
    "recover": reconnect.recover,
    "chat": chat.chat,
    "fleet": chat.fleet,
    "tasks": chat.tasks,
}

if __name__ == "__main__":
    raise_file_limit()
    gc.disable()  # a run is short, and a collection would look like latency of the server
    result = KINDS[sys.argv[1]](**json.load(sys.stdin))
    print(json.dumps(result))
