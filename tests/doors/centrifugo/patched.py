"""A patch applied: what the tests hold the patches against."""

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~"


class Patched:
    """A patch applied, written from the description of the format and from nothing else."""

    def __init__(self, source: bytes, patch: bytes) -> None:
        self._patch = patch
        self._at = 0
        self.copies = self.inserts = 0
        size = self._number()
        assert self._byte() == b"\n"
        self.target = b""
        while True:
            number, operator = self._number(), self._byte()
            if operator == b"@":
                offset = self._number()
                assert self._byte() == b","
                assert offset + number <= len(source)
                self.target += source[offset : offset + number]
                self.copies += 1
            elif operator == b":":
                assert number
                self.target += patch[self._at : self._at + number]
                self._at += number
                self.inserts += 1
            else:
                assert operator == b";"
                break
        assert self._at == len(patch)
        assert len(self.target) == size
        filled = self.target + bytes(-size % 4)
        words = [int.from_bytes(filled[i : i + 4], "big") for i in range(0, len(filled), 4)]
        assert number == sum(words) % 2**32

    def _byte(self) -> bytes:
        self._at += 1
        return self._patch[self._at - 1 : self._at]

    def _number(self) -> int:
        value, digits = 0, 0
        while (digit := DIGITS.find(chr(self._patch[self._at]))) >= 0:
            value = value * 64 + digit
            self._at += 1
            digits += 1
        assert digits
        return value
