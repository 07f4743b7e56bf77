"""Client frames, good and bad, for the tests of this directory."""

from websockets.speedups import apply_mask

MASK = b"\x11\x22\x33\x44"


def frame(
    payload: bytes = b"",
    *,
    opcode: int = 1,
    is_final: bool = True,
    reserved: int = 0,
    is_masked: bool = True,
    length_bytes: int | None = None,
    claimed_length: int | None = None,
) -> bytes:
    """A frame as a client would send it, or as none should."""
    length = len(payload) if claimed_length is None else claimed_length
    if length_bytes is None:
        length_bytes = 0 if length < 126 else 2 if length < 65_536 else 8
    mask_bit = 0x80 if is_masked else 0
    head = bytes([(0x80 if is_final else 0) | reserved << 4 | opcode])
    head += bytes([mask_bit | {0: length, 2: 126, 8: 127}[length_bytes]])
    head += length.to_bytes(length_bytes, "big") if length_bytes else b""
    if is_masked:
        return head + MASK + apply_mask(payload, MASK)
    return head + payload


def text(payload: str) -> bytes:
    return frame(payload.encode())


def close(code: int | None = 1000, reason: bytes = b"") -> bytes:
    payload = b"" if code is None else code.to_bytes(2, "big") + reason
    return frame(payload, opcode=8)
