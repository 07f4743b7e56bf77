"""Certificates for tests, made by the program `openssl` when they are first needed."""

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="the program openssl makes the certificates"
)


class Files(NamedTuple):
    """A certificate that signs itself, so that it is its own CA, and its key."""

    cert: Path
    key: Path

    @property
    def options(self) -> tuple[str, ...]:
        """For `claw up`."""
        return ("--tls-cert", str(self.cert), "--tls-key", str(self.key))


def make(folder: Path, name: str = "hub", *, days: int = 30) -> Files:
    """A pair for localhost and 127.0.0.1; -1 days: it expired yesterday."""
    files = Files(folder / f"{name}.pem", folder / f"{name}.key")
    folder.mkdir(parents=True, exist_ok=True)
    alternative = folder / "names.txt"
    alternative.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1\n")
    request = folder / f"{name}.csr"
    run("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", files.key)
    files.key.chmod(0o600)
    run("req", "-new", "-key", files.key, "-subj", f"/CN={name}", "-out", request)
    run(
        "x509", "-req", "-in", request, "-signkey", files.key, "-out", files.cert,
        "-days", days, "-extfile", alternative,
    )  # fmt: skip
    return files


def encrypted(files: Files) -> Path:
    """The key with a password that nobody knows."""
    path = files.key.with_suffix(".locked")
    run("ec", "-in", files.key, "-aes256", "-passout", "pass:secret", "-out", path)
    return path


def run(*arguments: object) -> None:
    command = ["openssl", *(str(argument) for argument in arguments)]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
