"""TLS with the real program: every way in, a certificate that changes, and what is refused."""

import shutil
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import Files, encrypted, make, needs_openssl
from tests.cli.program import HubProcess, Program, finish, read_line, running_hub

pytestmark = needs_openssl
MEMORY = ("--engine", "memory")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def program(tmp_path: Path, files: Files) -> Iterator[Program]:
    made = Program(tmp_path / "home")
    made.environment["CLAWNET_CA_FILE"] = str(files.cert)
    yield made
    made.end()


def trusting(cert: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(cert))
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def connected(hub: HubProcess, cert: Path) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", hub.port), timeout=10)
    return trusting(cert).wrap_socket(plain, server_hostname="localhost")


def get(hub: HubProcess, path: str, *more: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {hub.admin_token}"]
    return "\r\n".join([*lines, *more, "", ""]).encode()


def test_every_way_in_works(program: Program, tmp_path: Path, files: Files) -> None:
    with running_hub(program, tmp_path / "data", *files.options) as hub:
        assert hub.url == f"https://127.0.0.1:{hub.port}"
        follower = hub.start_claw("sub", "public.lobby")
        assert "following" in read_line(follower, stderr=True)
        with connected(hub, files.cert) as stream:
            assert stream.version() in ("TLSv1.2", "TLSv1.3")
            assert stream.selected_alpn_protocol() == "http/1.1"
            stream.sendall(get(hub, "/api/v1/events/stream?channels=public.lobby"))
            assert b"200 OK" in stream.recv(4_096)
            hub.claw("pub", "public.lobby", "hello")
            assert "hello" in read_line(follower)
            told = b""
            while b"hello" not in told:
                piece = stream.recv(4_096)
                assert piece
                told += piece
        assert "hello" in hub.claw("history", "public.lobby")
        # What the hub says of itself names it as it was asked.
        with connected(hub, files.cert) as asked:
            asked.sendall(get(hub, "/llms.txt", "Connection: close"))
            page = b""
            while piece := asked.recv(65_536):
                page += piece
        assert b"https://localhost" in page
        # A large body and a large answer cross several records.
        text = "x" * 60_000
        hub.claw("pub", "public.lobby", "-", stdin=text.encode())
        assert text in hub.claw("history", "public.lobby", "--limit", "1")


def test_openssls_own_variable_is_honoured_too(
    program: Program, tmp_path: Path, files: Files
) -> None:
    del program.environment["CLAWNET_CA_FILE"]
    program.environment["SSL_CERT_FILE"] = str(files.cert)
    with running_hub(program, tmp_path / "data", *files.options, *MEMORY) as hub:
        hub.claw("pub", "public.lobby", "hello")
        for more in ([], ["--durable", "d"]):
            sub = hub.claw("sub", "public.lobby", "--since", "all", "--count", "1", *more)
            assert "hello" in sub


def test_a_certificate_that_is_not_trusted_is_one_sentence(
    program: Program, tmp_path: Path, files: Files
) -> None:
    del program.environment["CLAWNET_CA_FILE"]
    with running_hub(program, tmp_path / "data", *files.options, *MEMORY) as hub:
        for command in (["pub", "public.lobby", "x"], ["sub", "public.lobby"], ["status"]):
            done = hub.try_claw(*command)
            assert done.returncode == 69, done
            assert b"is not trusted (self-signed certificate)" in done.stderr
            assert b"CLAWNET_CA_FILE" in done.stderr
            assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("no key", "--tls-cert is given without --tls-key"),
        ("no certificate", "--tls-key is given without --tls-cert"),
        ("missing", "cannot be read (No such file or directory)"),
        ("folder", "is no file"),
        ("mismatched", "does not belong to the certificate"),
        ("swapped", "are no certificate and key in PEM form"),
        ("expired", "has expired"),
        ("encrypted", "is encrypted"),
    ],
)
def test_a_pair_that_no_client_would_take_is_refused(
    case: str, words: str, program: Program, tmp_path: Path, files: Files
) -> None:
    cert, key = str(files.cert), str(files.key)
    options = {
        "no key": ["--tls-cert", cert],
        "no certificate": ["--tls-key", key],
        "missing": ["--tls-cert", str(tmp_path / "nowhere"), "--tls-key", key],
        "folder": ["--tls-cert", str(tmp_path), "--tls-key", key],
        "swapped": ["--tls-cert", key, "--tls-key", cert],
    }.get(case)
    if options is None:
        other = make(tmp_path, "other", days=-1 if case == "expired" else 30)
        options = {
            "mismatched": ["--tls-cert", cert, "--tls-key", str(other.key)],
            "expired": list(other.options),
            "encrypted": ["--tls-cert", str(other.cert), "--tls-key", str(encrypted(other))],
        }[case]
    done = program.run("up", "--port", "0", *MEMORY, *options)
    assert done.returncode == 78, done
    assert words in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert done.stdout == b""


def test_a_key_that_others_can_read_is_a_warning(
    program: Program, tmp_path: Path, files: Files
) -> None:
    open_key = tmp_path / "open.key"
    shutil.copy(files.key, open_key)
    for mode, is_told in ((0o644, True), (0o640, False)):
        open_key.chmod(mode)
        options = ("--tls-cert", str(files.cert), "--tls-key", str(open_key), *MEMORY)
        with running_hub(program, tmp_path / "data", *options) as hub:
            hub.stop()
            assert (b"can be read by others" in hub.said) is is_told


def test_a_renewed_certificate_is_used_from_the_next_handshake_on(
    program: Program, tmp_path: Path, files: Files
) -> None:
    first, second = make(tmp_path, "first"), make(tmp_path, "second")
    used = Files(tmp_path / "used.pem", tmp_path / "used.key")
    both = tmp_path / "ca.pem"
    both.write_bytes(first.cert.read_bytes() + second.cert.read_bytes())
    program.environment["CLAWNET_CA_FILE"] = str(both)
    shutil.copy(first.cert, used.cert)
    shutil.copy(first.key, used.key)
    with running_hub(program, tmp_path / "data", *used.options, *MEMORY) as hub:
        assert hub.process is not None
        for _ in range(2):  # the token, and what to do next
            read_line(hub.process, stderr=True)
        follower = hub.start_claw("sub", "public.lobby")
        read_line(follower, stderr=True)

        # A half-written pair changes nothing.
        shutil.copy(second.cert, used.cert)
        hub.process.send_signal(signal.SIGHUP)
        assert "the certificate stays as it was" in read_line(hub.process, stderr=True)
        with connected(hub, first.cert):
            pass

        shutil.copy(second.key, used.key)
        hub.process.send_signal(signal.SIGHUP)
        assert "was read anew" in read_line(hub.process, stderr=True)
        with connected(hub, second.cert):
            pass
        with pytest.raises(ssl.SSLCertVerificationError):
            connected(hub, first.cert)
        hub.claw("pub", "public.lobby", "still here")
        assert "still here" in read_line(follower)
        follower.send_signal(signal.SIGINT)
        # It has never reconnected.
        assert finish(follower)[2].strip() == ""


def test_a_signal_ends_it_with_everything_open(
    program: Program, tmp_path: Path, files: Files
) -> None:
    with running_hub(program, tmp_path / "data", *files.options) as hub:
        follower = hub.start_claw("sub", "public.lobby")
        read_line(follower, stderr=True)
        stream = connected(hub, files.cert)
        stream.sendall(get(hub, "/api/v1/events/stream?channels=public.lobby"))
        assert b"200 OK" in stream.recv(4_096)
        idle = connected(hub, files.cert)
        silent = socket.create_connection(("127.0.0.1", hub.port))
        hub.claw("pub", "public.lobby", "hello")
        assert "hello" in read_line(follower)
        code, took_s = hub.stop()
        assert code == 0
        # The server's own deadline is 0.9 s; a stalled machine is no defect.
        assert took_s < 5.0
        assert b"Traceback" not in hub.said
        assert b"shutdown" not in hub.said
        for connection in (stream, idle, silent):
            connection.close()
        follower.send_signal(signal.SIGINT)
        assert finish(follower)[0] == 130


def test_http_at_a_tls_port_and_tls_at_an_http_port_end(
    program: Program, tmp_path: Path, files: Files
) -> None:
    with running_hub(program, tmp_path / "data", *files.options, *MEMORY) as hub:
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", hub.port), timeout=5) as plain:
                plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                try:
                    while plain.recv(4_096):
                        pass
                except ConnectionResetError:
                    pass
        assert hub.claw("status", "--json")
        hub.stop()
        assert b"Traceback" not in hub.said
        assert b"exception" not in hub.said
    with running_hub(program, tmp_path / "other", *MEMORY) as hub:
        with pytest.raises(ssl.SSLError):
            connected(hub, files.cert)
        done = program.run("status", "-s", hub.url.replace("http", "https"))
        assert done.returncode == 69
        assert b"Traceback" not in done.stderr
        hub.stop()
        assert b"Traceback" not in hub.said
