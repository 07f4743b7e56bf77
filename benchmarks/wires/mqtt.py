"""MQTT 3.1.1 with QoS 0."""

from benchmarks.wires.wire import Connection, Tally, Wire


class Mqtt(Wire):
    """Publish and subscribe at most once; nothing is acknowledged."""

    def publisher(self) -> Connection:
        connection = Connection(self.port)
        connection.send(_packet(0x10, _text("MQTT") + b"\x04\x02\x00\x00" + _text("")))
        answer = connection.read(4)
        if answer[0] != 0x20 or answer[3] != 0:
            raise ConnectionError(f"no MQTT connection: {answer!r}")
        return connection

    def subscriber(self, number: int) -> Connection:
        connection = self.publisher()
        connection.send(_packet(0x82, b"\x00\x01" + _text(self.topic) + b"\x00"))
        connection.read(5)  # SUBACK
        return connection

    def frame(self, payload: bytes) -> bytes:
        return _packet(0x30, _text(self.topic) + payload)

    def tally(self, data: bytes | bytearray) -> Tally:
        at = messages = counted = 0
        end = len(data)
        while at < end:
            size, shift, body = 0, 0, at + 1
            while body < end:
                size |= (data[body] & 127) << shift
                shift += 7
                body += 1
                if data[body - 1] < 128:
                    break
            else:
                break
            after = body + size
            if after > end:
                break
            if data[at] >> 4 == 3:
                messages += 1
                counted += after - at
            at = after
        return Tally(messages, counted, at)


def _text(words: str) -> bytes:
    data = words.encode()
    return len(data).to_bytes(2, "big") + data


def _packet(kind: int, body: bytes) -> bytes:
    size, length = len(body), bytearray()
    while True:
        length.append(size & 127 | (128 if size > 127 else 0))
        size >>= 7
        if not size:
            return bytes((kind,)) + bytes(length) + body
