"""/auth over HTTP, with a real Moltbook's answers: statuses, sentences and shapes."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from shutil import which
from typing import Any

import httpx
import jwt
import msgspec
import pytest

from clawnet.core.errors import BadRequest, RateLimited, Unauthenticated
from clawnet.doors.gate import GateSettings
from clawnet.doors.http.app import build_app
from clawnet.doors.http.claw_events.answers import error_answer
from clawnet.doors.server import ServerSettings
from clawnet.features import FeatureSettings
from clawnet.features.identity.settings import IdentitySettings
from clawnet.hub.settings import HubSettings, LimitSettings, TokenSettings
from clawnet.testing.clocks import FakeClock
from clawnet.testing.moltbook import APP_KEY, KEY, FakeMoltbook, fake_moltbook
from clawnet.testing.running import Running, running_hub

JWT_KEY = "a key that a Centrifugo has as well, of 32 bytes or more"
PUBLIC_URL = "https://hub.example"


class Site:
    """A running hub, its Moltbook and a client of it."""

    def __init__(
        self, running: Running, moltbook: FakeMoltbook, client: httpx.AsyncClient, clock: FakeClock
    ) -> None:
        self.running = running
        self.hub = running.hub
        self.moltbook = moltbook
        self.client = client
        self.clock = clock

    async def post(self, path: str, body: Any = None, *, token: str | None = None) -> Any:
        """POST that is answered with 2xx."""
        answer = await self.ask("POST", path, body, token=token)
        assert answer.is_success, answer.text
        return answer.json()

    async def ask(
        self, method: str, path: str, body: Any = None, *, token: str | None = None
    ) -> httpx.Response:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return await self.client.request(method, path, json=body, headers=headers)

    async def refuses(
        self, status: int, sentence: str, path: str, body: Any = None, *, token: str | None = None
    ) -> dict[str, Any]:
        """POST that is refused with this; the problem's members stand beside the sentence."""
        answer = await self.ask("POST", path, body, token=token)
        assert answer.status_code == status, answer.text
        said: dict[str, Any] = answer.json()
        assert sentence in said["error"], said
        assert said["error"] == said["detail"] and said["status"] == status
        assert {"type", "title", "code", "retryable", "next"} <= said.keys()
        return said

    async def log_in(self, username: str = "alice") -> dict[str, Any]:
        begun = await self.post("/auth/init", {"username": username})
        self.moltbook.agent(username, begun["signature"])
        body = {"username": username, "claim": begun["claim"]}
        logged_in: dict[str, Any] = await self.post("/auth/verify", body)
        return logged_in


@asynccontextmanager
async def a_site(
    *, is_dev: bool = False, proofs: Any = ("moltbook", "ssh-key"), **server: Any
) -> AsyncIterator[Site]:
    clock = FakeClock()
    async with fake_moltbook() as moltbook:
        identity = IdentitySettings(
            proofs=list(proofs),
            moltbook_url=moltbook.url,
            moltbook_key=KEY,
            moltbook_app_key=APP_KEY,
            # Short enough for a test of what is slow, and long enough for all others.
            moltbook_timeout_s=0.05 if server.pop("is_hasty", False) else 20.0,
        )
        async with (
            running_hub(
                settings=HubSettings(
                    is_dev=is_dev,
                    limits=LimitSettings(enabled=server.pop("is_limited", False)),
                    tokens=TokenSettings(jwt_key=JWT_KEY),
                ),
                clock=clock,
                features=FeatureSettings(identity=identity),
                make_app=lambda hub: build_app(hub, public_url=PUBLIC_URL),
                **server,
            ) as running,
            httpx.AsyncClient(base_url=running.url, trust_env=False, timeout=30) as client,
        ):
            yield Site(running, moltbook, client, clock)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with a_site() as made:
        yield made


# --- Moltbook -----------------------------------------------------------------


async def test_the_whole_way_by_a_profile(site: Site) -> None:
    begun = await site.post("/auth/init", {"username": "Alice"})
    assert begun.keys() == {
        "username", "signature", "claim", "instructions", "audience", "expires_at",
    }  # fmt: skip
    assert begun["username"] == "alice" and begun["signature"].startswith("claw-sig-")
    assert begun["signature"] in begun["instructions"]
    assert begun["claim"] not in begun["instructions"]
    assert begun["audience"] == PUBLIC_URL
    body = {"username": "alice", "claim": begun["claim"]}
    await site.refuses(401, "signature not found", "/auth/verify", body)
    site.moltbook.agent("Alice", f"hello {begun['signature']}")
    found = await site.post("/auth/verify", body)
    assert {"token", "username", "hint"} <= found.keys() and found["username"] == "alice"
    claims = jwt.decode(
        found["token"], JWT_KEY, algorithms=["HS256"], audience="clawnet",
        options={"verify_exp": False, "verify_iat": False},
    )  # fmt: skip
    assert claims["sub"] == "alice" and claims["jti"] == found["jti"]
    me = await site.ask("GET", "/api/v1/me", token=found["token"])
    assert me.json()["account"]["proof"] == "moltbook"
    await site.refuses(400, "Nothing is pending", "/auth/verify", body)


async def test_what_is_missing_is_said(site: Site) -> None:
    await site.refuses(400, "username required", "/auth/init", {})
    await site.refuses(400, "username required", "/auth/verify", {"claim": "c"})
    await site.refuses(400, "claim required", "/auth/verify", {"username": "alice"})
    await site.refuses(
        400, "Nothing is pending", "/auth/verify", {"username": "alice", "claim": "c"}
    )
    await site.refuses(400, "does not fit", "/auth/init", {"username": 7})
    await site.refuses(400, "does not fit", "/auth/verify", ["alice"])
    await site.refuses(400, "username", "/auth/init", {"username": "a/b"})
    await site.refuses(415, "application/json", "/auth/init")


async def test_what_came_too_late_is_gone(site: Site) -> None:
    begun = await site.post("/auth/init", {"username": "alice"})
    site.moltbook.agent("alice", begun["signature"])
    site.clock.advance(600)
    body = {"username": "alice", "claim": begun["claim"]}
    said = await site.refuses(410, "expired", "/auth/verify", body)
    assert said["code"] == "challenge_expired"


async def test_too_many_pending_is_429_with_what_the_published_client_reads(site: Site) -> None:
    for _ in range(5):
        await site.post("/auth/init", {"username": "alice"})
    answer = await site.ask("POST", "/auth/init", {"username": "alice"})
    said = answer.json()
    assert (answer.status_code, said["code"]) == (429, "rate_limited")
    assert said["retry_after"] == 600
    assert said["retry_timestamp"] == site.clock.wall_ms() + 600_000
    assert answer.headers["retry-after"] == "600"
    assert answer.headers["ratelimit"].endswith("r=0;t=600")
    assert "ratelimit-policy" in answer.headers


async def test_an_identity_token_for_this_hub_is_taken(site: Site) -> None:
    begun = await site.post("/auth/init", {"username": "alice"})
    site.moltbook.agent("alice")
    body = {"username": "alice", "claim": begun["claim"]}
    other = site.moltbook.identity_token("alice", audience="https://elsewhere.example")
    await site.refuses(401, "identity token", "/auth/verify", {**body, "token": other})
    # What the request calls this hub does not count, only what it is configured to be called.
    answer = await site.client.post(
        "/auth/verify", json={**body, "token": other}, headers={"Host": "127.0.0.1"}
    )
    assert answer.status_code == 401
    token = site.moltbook.identity_token("alice", audience=begun["audience"])
    assert (await site.post("/auth/verify", {**body, "token": token}))["username"] == "alice"


@pytest.mark.parametrize("trouble", ["failing", "nonsense", "redirect", "limited", "down"])
async def test_moltbook_in_trouble_is_502_and_accounts_go_on(site: Site, trouble: Any) -> None:
    token = (await site.log_in("bob"))["token"]
    begun = await site.post("/auth/init", {"username": "alice"})
    site.moltbook.agent("alice", begun["signature"])
    port = int(site.moltbook.url.rpartition(":")[2].partition("/")[0])
    if trouble == "down":
        await site.moltbook.stop()
    else:
        site.moltbook.trouble = trouble
    body = {"username": "alice", "claim": begun["claim"]}
    said = await site.refuses(502, "Moltbook cannot be reached", "/auth/verify", body)
    assert said["retryable"] is True and site.moltbook.url not in str(said)
    me = await site.ask("GET", "/api/v1/me", token=token)
    assert me.json()["account"]["id"] == "bob"
    if trouble == "redirect":
        hosts = {one.headers["host"] for one in site.moltbook.asked}
        assert hosts == {f"127.0.0.1:{port}"}, "the redirect was followed"
    site.moltbook.trouble = None
    if trouble == "down":
        await site.moltbook.start(port)
    assert (await site.post("/auth/verify", body))["username"] == "alice"


@pytest.mark.parametrize("trouble", ["large", "large_unannounced"])
async def test_a_body_of_a_megabyte_is_not_read_to_its_end(site: Site, trouble: Any) -> None:
    begun = await site.post("/auth/init", {"username": "alice"})
    site.moltbook.trouble = trouble
    body = {"username": "alice", "claim": begun["claim"]}
    await site.refuses(502, "Moltbook", "/auth/verify", body)
    site.moltbook.trouble = None
    site.moltbook.agent("alice", begun["signature"])
    assert (await site.post("/auth/verify", body))["username"] == "alice"


async def test_a_slow_moltbook_is_given_up() -> None:
    async with a_site(is_hasty=True) as site:
        begun = await site.post("/auth/init", {"username": "alice"})
        site.moltbook.trouble = "slow"
        body = {"username": "alice", "claim": begun["claim"]}
        await site.refuses(502, "Moltbook", "/auth/verify", body)


async def test_a_name_never_becomes_more_than_a_value_of_the_query(site: Site) -> None:
    for name in ("alice&name=bob", "alice#", "../../admin", "alice%2f", "http://x.invalid/"):
        await site.refuses(400, "username", "/auth/init", {"username": name})
    assert site.moltbook.asked == []
    await site.log_in("a-_9")
    assert [one.path for one in site.moltbook.asked] == ["/api/v1/agents/profile"]
    assert site.moltbook.asked[0].query == {"name": "a-_9"}


async def test_who_guesses_is_slowed_down() -> None:
    async with a_site(is_limited=True) as site:
        body = {"username": "alice", "claim": "claim_guessed"}
        answers = [await site.ask("POST", "/auth/verify", body) for _ in range(20)]
        statuses = [answer.status_code for answer in answers]
        assert statuses == sorted(statuses) and {*statuses} == {400, 429}
        assert int(answers[-1].headers["retry-after"]) >= 1
        # Elsewhere nothing of it is felt: this is about another name.
        assert (await site.log_in("bob"))["username"] == "bob"


# --- SSH keys -----------------------------------------------------------------


@pytest.fixture
def key(tmp_path: Path) -> Path:
    if which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed")
    path = tmp_path / "id_ed25519"
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "c", "-f", str(path))
    return path


def _run(*command: str, given: str = "") -> str:
    done = subprocess.run(
        command, input=given.encode(), capture_output=True, check=True, timeout=60
    )
    return done.stdout.decode()


def sign(message: str, key: Path) -> str:
    # Stripped, as the published client does it.
    return _run(
        "ssh-keygen", "-q", "-Y", "sign", "-n", "claw.events", "-f", str(key), given=message
    ).strip()


@pytest.mark.parametrize("prefix", ["/auth", "/auth/agent"])
async def test_the_published_clients_way_by_a_key(site: Site, key: Path, prefix: str) -> None:
    login = (await site.log_in())["token"]
    public = key.with_suffix(".pub").read_text()
    answer = await site.ask(
        "POST", "/auth/keys", {"public_key": public, "key_name": "main"}, token=login
    )
    assert answer.status_code == 201 and answer.json()["key_name"] == "main"
    listed = (await site.ask("GET", "/auth/keys", token=login)).json()["keys"]
    assert [one["fingerprint"] for one in listed] == [answer.json()["fingerprint"]]
    # Moltbook has no part in it.
    await site.moltbook.stop()
    body = {"username": "alice", "key_name": "main"}
    begun = await site.post(f"{prefix}/init", body)
    assert begun.keys() == {
        "username", "key_name", "nonce", "issuedAt", "message", "namespace", "expires_at",
    }  # fmt: skip
    assert begun["namespace"] == "claw.events" and begun["message"].count("\n") == 4
    signature = sign(begun["message"], key)
    answer_body = {**body, "nonce": begun["nonce"], "signature": signature}
    found = await site.post(f"{prefix}/verify", answer_body)
    assert {"token", "username", "hint"} <= found.keys()
    me = await site.ask("GET", "/api/v1/me", token=found["token"])
    assert me.json()["account"]["id"] == "alice"
    await site.refuses(400, "invalid or expired challenge", f"{prefix}/verify", answer_body)
    begun = await site.post(f"{prefix}/init", body)
    wrong = {**body, "nonce": begun["nonce"], "signature": signature}
    await site.refuses(401, "signature verification failed", f"{prefix}/verify", wrong)
    other = {**body, "key_name": "other"}
    await site.refuses(404, "public key not found", f"{prefix}/init", other)
    removed = await site.ask("DELETE", "/auth/keys?key_name=main", token=login)
    assert removed.status_code == 200
    await site.refuses(404, "public key not found", f"{prefix}/init", body)


async def test_the_key_may_be_left_out_where_the_path_says_it(site: Site) -> None:
    await site.refuses(404, "public key not found", "/auth/agent/init", {"username": "alice"})
    await site.refuses(400, "username required", "/auth/agent/init", {})
    for body in ({"username": "alice"}, {"username": "alice", "claim": "c", "secret": "s"}):
        await site.refuses(400, "nonce and signature required", "/auth/agent/verify", body)


async def test_keys_are_for_who_is_logged_in(site: Site) -> None:
    for method, path, body in (
        ("GET", "/auth/keys", None),
        ("POST", "/auth/keys", {"public_key": "ssh-ed25519 AAAA"}),
        ("DELETE", "/auth/keys", None),
    ):
        answer = await site.ask(method, path, body)
        assert answer.status_code == 401 and "error" in answer.json()
    login = (await site.log_in())["token"]
    said = await site.refuses(
        400, "no public key", "/auth/keys", {"public_key": "-----BEGIN"}, token=login
    )
    assert ".pub" in said["next"]


# --- the rest -----------------------------------------------------------------


async def test_revoking_ends_what_was_shown(site: Site) -> None:
    first, second = [(await site.log_in())["token"] for _ in range(2)]
    answer = await site.post("/auth/revoke", token=first)
    assert answer == {"ok": True, "revoked": True, "username": "alice"}
    await site.refuses(401, "not valid", "/auth/revoke", token=first)
    assert (await site.ask("GET", "/api/v1/me", token=first)).status_code == 401
    assert (await site.ask("GET", "/api/v1/me", token=second)).status_code == 200
    await site.refuses(401, "token", "/auth/revoke")
    opaque = await site.running.token("bob")
    assert (await site.post("/auth/revoke", token=opaque))["username"] == "bob"
    assert (await site.ask("GET", "/api/v1/me", token=opaque)).status_code == 401


async def test_nobody_registers_on_a_hub_that_is_not_for_development(site: Site) -> None:
    said = await site.refuses(404, "Nobody registers", "/auth/dev-register", {"username": "alice"})
    assert "claw invite" in said["next"]


async def test_nobody_registers_from_elsewhere() -> None:
    # Behind a proxy nothing is local.
    gate = GateSettings(behind_proxy=("10.0.0.0/8",))
    server = ServerSettings(port=0, behind_proxy=gate.behind_proxy)
    async with a_site(is_dev=True, server=server) as site:
        await site.refuses(404, "Nobody registers", "/auth/dev-register", {"username": "alice"})


async def test_a_hub_for_development_registers_new_names() -> None:
    async with a_site(is_dev=True) as site:
        found = await site.post("/auth/dev-register", {"username": "Alice"})
        assert {"token", "username", "hint"} <= found.keys() and found["username"] == "alice"
        me = await site.ask("GET", "/api/v1/me", token=found["token"])
        assert me.json()["account"]["id"] == "alice"
        await site.refuses(409, "taken", "/auth/dev-register", {"username": "alice"})
        await site.refuses(400, "username required", "/auth/dev-register", {})


async def test_an_invitation_can_be_used_here_too(site: Site) -> None:
    master = await site.running.token("boss", role="master")
    made = await site.post("/api/v1/invitations", {}, token=master)
    secret = made["link"].partition("#")[2]
    body = {"username": "dora", "invitation": secret}
    assert (await site.post("/auth/verify", body))["username"] == "dora"
    await site.refuses(410, "cannot be used", "/auth/verify", {**body, "username": "eve"})


async def test_without_proofs_it_is_said_how_else() -> None:
    async with a_site(proofs=()) as site:
        said = await site.refuses(404, "nothing by which", "/auth/init", {"username": "alice"})
        assert "claw join" in said["next"]
        login = await site.running.token("bob")
        await site.refuses(
            404, "takes no keys", "/auth/keys", {"public_key": "ssh-ed25519 AAAA"}, token=login
        )


def test_errors_say_when_to_come_back() -> None:
    limited = RateLimited("Too fast.", retry_after_s=1.2, limit_per_s=5.0)
    answer = error_answer(limited, now_ms=1_000)
    body = msgspec.json.decode(answer.body)
    assert (body["error"], body["retry_after"], body["retry_timestamp"]) == ("Too fast.", 2, 3_000)
    headers = dict(answer.headers)
    assert headers[b"ratelimit"] == b'"account";r=0;t=2' and headers[b"retry-after"] == b"2"
    assert [name for name, _ in answer.headers].count(b"ratelimit") == 1
    assert headers[b"ratelimit-policy"] == b'"account";q=5;w=1'
    # A quota is a whole number: what is less than one in a second is one in so many.
    for rate, policy in ((0.2, b"q=1;w=5"), (1 / 60, b"q=1;w=60"), (1.0, b"q=1;w=1")):
        slow = error_answer(RateLimited("Too fast.", limit_per_s=rate), now_ms=0)
        assert dict(slow.headers)[b"ratelimit-policy"] == b'"account";' + policy
    for error in (BadRequest("no"), Unauthenticated("no")):
        body = msgspec.json.decode(error_answer(error, now_ms=0).body)
        assert body["error"] == "no" and "retry_after" not in body
