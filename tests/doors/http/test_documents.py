"""What the hub says about itself: whole, its own URL in it, and nothing of a stranger's making."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from typing import Any

import httpx
import jsonschema_rs
import pytest

from clawnet.core.errors import BadConfiguration
from clawnet.doors.gate import Admitted
from clawnet.doors.http.app import build_app
from clawnet.doors.http.documents import asyncapi
from clawnet.doors.http.documents.page import POLICY, render
from clawnet.doors.http.documents.place import check_public_url, public_url
from clawnet.doors.http.documents.shelf import PAGES_MAX, PLACEHOLDER
from clawnet.doors.http.request import Request
from clawnet.doors.server import ServerSettings
from clawnet.doors.ws.commands import parse
from clawnet.testing.running import running_hub
from tests.doors.http.conftest import Api, check_problem

DOCUMENTS = {
    "/": "text/html; charset=utf-8",
    "/openapi.json": "application/json",
    "/asyncapi.json": "application/json",
    "/docs": "text/html; charset=utf-8",
    "/skill.md": "text/markdown; charset=utf-8",
    "/llms.txt": "text/markdown; charset=utf-8",
}
EVIL = "evil.example"
AS_BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


async def host(api: Api, path: str, name: str, **headers: str) -> httpx.Response:
    return await api.client.get(path, headers={"Host": name, **headers})


@pytest.mark.parametrize("path", DOCUMENTS)
async def test_a_document_needs_no_token_and_bears_the_hubs_own_url(api: Api, path: str) -> None:
    answer = await api.client.get(path, headers=AS_BROWSER)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == DOCUMENTS[path]
    assert api.running.url.removeprefix("http://") in answer.text
    assert "hub.invalid" not in answer.text
    assert answer.headers["cache-control"] == "no-cache"
    assert "Host" in answer.headers["vary"]


@pytest.mark.parametrize("path", DOCUMENTS)
async def test_a_document_that_is_known_is_not_sent_again(api: Api, path: str) -> None:
    tag = (await api.client.get(path, headers=AS_BROWSER)).headers["etag"]
    for known in (tag, f'"other", W/{tag}', "*"):
        answer = await api.client.get(path, headers={"If-None-Match": known, **AS_BROWSER})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == tag
    answer = await api.client.get(path, headers={"If-None-Match": '"other"', **AS_BROWSER})
    assert answer.status_code == 200


@pytest.mark.parametrize("path", DOCUMENTS)
async def test_head_says_what_get_would(api: Api, path: str) -> None:
    got, head = await api.client.get(path), await api.client.head(path)
    assert head.status_code == 200 and head.content == b""
    assert head.headers["content-length"] == str(len(got.content))
    check_problem(await api.client.get(path, params={"x": "1"}), 400, "bad_request")
    check_problem(await api.client.post(path), 405, "method_not_allowed")


async def test_nothing_that_a_hub_holds_is_in_a_document(api: Api) -> None:
    token = await api.running.token("zebra-account")
    await api.publish("zebra-data", path="/api/v1/channels/public.zebra-channel/events")
    for path in DOCUMENTS:
        text = (await api.client.get(path, headers={"Authorization": f"Bearer {token}"})).text
        assert "zebra" not in text and token not in text


# --- the URL ----------------------------------------------------------------


@pytest.mark.parametrize("path", DOCUMENTS)
async def test_a_host_that_the_gate_refuses_is_in_no_document(api: Api, path: str) -> None:
    check_problem(await host(api, path, EVIL), 403, "forbidden")
    # What a proxy would say counts only from a proxy that is trusted.
    for name in ("X-Forwarded-Host", "X-Original-Host", "Forwarded"):
        answer = await api.client.get(path, headers={name: EVIL, "X-Forwarded-Proto": "https"})
        assert answer.status_code == 200
        assert EVIL not in answer.text and "https://127" not in answer.text


ODD = ["a<b>.localhost", "a`b.localhost", "a'b.localhost", 'a"b.localhost', "a$(x).localhost",
       "a*b*.localhost", "a%00.localhost", "-.localhost", "a b", "", "::1%x"]  # fmt: skip


@pytest.mark.parametrize("name", ODD[:-3])
async def test_a_host_of_odd_text_is_in_no_document(api: Api, name: str) -> None:
    """The gate refuses most; none is repeated where it could mean something."""
    for path in DOCUMENTS:
        answer = await host(api, path, name)
        assert answer.status_code in (200, 400), answer.text
        if answer.status_code == 200:
            assert name not in answer.text
            assert f"127.0.0.1:{api.running.port}" in answer.text


@pytest.mark.parametrize("name", ODD)
async def test_even_an_admitted_host_is_repeated_only_if_it_is_plain(api: Api, name: str) -> None:
    """The second look: a gate that let more in would still put nothing into the documents."""
    scope: dict[str, Any] = {
        "type": "http", "method": "GET", "headers": [], "scheme": "http",
        "server": ("127.0.0.1", 7000),
        "state": {"admitted": Admitted("127.0.0.1", is_local=True, host=name, port=7000)},
    }  # fmt: skip
    assert public_url(Request(api.door, scope, no_body, no_answer)) == "http://127.0.0.1:7000"


async def no_body() -> Any:
    """Nothing is received."""


async def no_answer(message: Any) -> None:
    """Nothing is sent."""


async def test_each_admitted_host_gets_its_own_url(api: Api) -> None:
    for name, url in (
        ("hub.localhost:9999", "http://hub.localhost:9999"),
        ("LOCALHOST", "http://localhost"),
        ("localhost:80", "http://localhost"),
        ("[::1]:7000", "http://[::1]:7000"),
    ):
        document = (await host(api, "/openapi.json", name)).json()
        assert document["servers"] == [{"url": url}]


async def test_what_is_kept_for_hosts_is_bounded(api: Api) -> None:
    for number in range(PAGES_MAX + 10):
        await host(api, "/llms.txt", f"h{number}.localhost")
    assert len(api.door.shelf._pages) <= PAGES_MAX


async def test_behind_a_trusted_proxy_its_words_count() -> None:
    server = ServerSettings(port=0, behind_proxy=("127.0.0.1",))
    async with (
        running_hub(server=server) as running,
        httpx.AsyncClient(base_url=running.url, trust_env=False) as client,
    ):
        said = {"X-Forwarded-Host": f"{EVIL}, hub.example", "X-Forwarded-Proto": "http, https"}
        document = (await client.get("/openapi.json", headers=said)).json()
        assert document["servers"] == [{"url": "https://hub.example"}]
        live = (await client.get("/asyncapi.json", headers=said)).json()["servers"]
        assert live["websocket"]["protocol"] == "wss" and live["sse"]["protocol"] == "https"
        odd = {"X-Forwarded-Host": "hub.example", "X-Forwarded-Proto": "javascript"}
        document = (await client.get("/openapi.json", headers=odd)).json()
        assert document["servers"] == [{"url": "http://hub.example"}]


async def test_a_configured_url_wins(http_settings: Any) -> None:
    async with (
        running_hub(make_app=lambda hub: build_app(hub, public_url="https://h.example/claw/"))
        as running,
        httpx.AsyncClient(base_url=running.url, trust_env=False) as client,
    ):  # fmt: skip
        document = (await client.get("/openapi.json")).json()
        assert document["servers"] == [{"url": "https://h.example/claw"}]
        server = (await client.get("/asyncapi.json")).json()["servers"]["websocket"]
        assert (server["host"], server["pathname"]) == ("h.example", "/claw")
        assert "https://h.example/claw/docs" in (await client.get("/llms.txt")).text


@pytest.mark.parametrize(
    "url", ["", "hub.example", "ftp://hub.example", "https://", "https://a b", "https://a/<b>",
            "https://u:p@hub.example", "https://hub.example?x=1", "https://hub.example/#x",
            "https://hub.example/a\nb", "https://hub.example:port"],
)  # fmt: skip
def test_a_public_url_that_could_mean_something_else_is_refused(url: str) -> None:
    with pytest.raises(BadConfiguration):
        check_public_url(url)


# --- the way to them --------------------------------------------------------


async def test_the_hubs_address_alone_leads_on(api: Api) -> None:
    answer = await api.client.get("/", headers=AS_BROWSER)
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    page = Page(answer.text)
    links = [value for name, value in page.attributes if name == "href" and value]
    assert {link.rpartition("/")[2] for link in links} >= {"docs", "skill.md", "llms.txt"}
    for link in links:
        assert (await api.client.get(link)).status_code == 200, link


@pytest.mark.parametrize("path", ["/nowhere", "/api/v1", "/api/v1/nothing"])
async def test_a_path_that_is_not_there_names_paths_that_are(api: Api, path: str) -> None:
    problem = check_problem(await api.client.get(path), 404, "not_found")
    named = re.findall(r"/[a-z.]+", problem["next"])
    assert named == ["/docs", "/skill.md", "/llms.txt"]
    for one in named:
        assert (await api.client.get(one)).status_code == 200


# --- the page ---------------------------------------------------------------


class Page(HTMLParser):
    """What a browser would do with the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.words.append(data)


async def test_the_page_shows_every_operation_with_a_line_to_try(api: Api) -> None:
    document = (await api.client.get("/openapi.json")).json()
    page = Page((await api.client.get("/docs")).text)
    text = "".join(page.words)
    for path, methods in document["paths"].items():
        for said in methods.values():
            assert path in text and said["summary"].replace("`", "") in text
    lines = re.findall(r"curl [^\n]*?'http://[^']+'", text)
    assert len(lines) == sum(len(methods) for methods in document["paths"].values())
    assert all(api.running.url in line for line in lines)


CANNOT_BE_SHOWN = frozenset(
    {"/auth/verify", "/auth/agent/verify", "/auth/keys", "/api/v1/enrol", "/api/auth/token"}
)
"""Lines with a claim, a signature, a key or a secret, which are nobody's and cannot work as they
stand."""


async def test_every_line_of_the_page_is_a_request_that_can_work(api: Api) -> None:
    """By a fitting account: what is named may not be there, but nothing is wrong with the line."""
    token = await api.running.token("admin", role="master")
    warden = await api.running.token("eye", role="warden")
    shown = re.findall(r"<pre>(.*?)</pre>", (await api.client.get("/docs")).text)
    wrong = []
    for line in map(unescape, shown):
        if line.endswith(("/auth/revoke'", "/auth/logout'")):
            # It ends the token that it shows.
            line = line.replace("$TOKEN", await api.running.token("admin", role="master"))
        if "/api/v1/restore" in line:
            line = line.replace("$TOKEN", warden)
        words = shlex.split(line.replace("$TOKEN", token))[1:]
        url, method = words.pop(), "GET"
        headers: dict[str, str] = {}
        more: dict[str, Any] = {}
        while words:
            match words.pop(0):
                case "-X":
                    method = words.pop(0)
                case "-H":
                    name, _, value = words.pop(0).partition(": ")
                    headers[name] = value
                case "-d":
                    headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
                    more["content"] = words.pop(0)
                case "-u":
                    assert words.pop(0) == "ACCOUNT:TOKEN"
                    more["auth"] = ("admin", token)
                case "-N":
                    pass
                case other:
                    raise AssertionError(f"{other} in {line}")
        if url.removeprefix(api.running.url) in CANNOT_BE_SHOWN:
            continue
        async with api.client.stream(method, url, headers=headers, **more) as answer:
            if answer.status_code in (400, 401, 403, 415) or answer.status_code >= 500:
                wrong.append((method, url, (await answer.aread()).decode()[:300]))
    assert len(shown) > 60 and wrong == [], "\n".join(map(str, wrong))


async def test_the_page_has_no_script_and_nothing_from_elsewhere(api: Api) -> None:
    answer = await api.client.get("/docs")
    assert answer.headers["content-security-policy"] == POLICY
    assert POLICY.startswith("default-src 'none'") and "unsafe" not in POLICY
    page = Page(answer.text)
    assert not {"script", "img", "link", "iframe", "object", "embed", "form"} & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on") and name not in ("src", "style", "srcdoc")
        if name == "href":
            assert value is not None and value.startswith(("#", api.running.url))


def test_whatever_the_document_says_is_escaped() -> None:
    bad = "<script>alert(1)</script>\"'&"
    schema = {"type": "object", "description": bad, "properties": {bad: {"enum": [bad]}}}
    answer = {"description": bad, "content": {bad: {"schema": schema}}}
    parameter = {"name": bad, "in": "query", "required": False, "description": bad,
                 "schema": {"type": bad}}  # fmt: skip
    operation = {
        "tags": [bad], "summary": bad, "description": bad, "security": [],
        "parameters": [parameter], "responses": {bad: answer},
        "requestBody": {"content": {bad: {"schema": schema}}},
    }  # fmt: skip
    text = render(
        {
            "info": {"title": bad, "version": bad, "description": bad},
            "servers": [{"url": PLACEHOLDER}],
            "tags": [{"name": bad, "description": bad}],
            "paths": {f"/{bad}": {bad: operation}},
            "components": {"schemas": {"Problem": schema}, "responses": {}},
        }
    )
    page = Page(text)
    assert "script" not in page.tags
    assert bad in "".join(page.words)


# --- streams ----------------------------------------------------------------


async def test_the_streams_document_holds_every_command_and_is_whole(api: Api) -> None:
    document = (await api.client.get("/asyncapi.json")).json()
    assert document["asyncapi"] == "3.0.0"
    names = {message["name"] for message in document["components"]["messages"].values()}
    assert names >= {"auth", "subscribe", "unsubscribe", "publish", "ack", "ping"}
    assert names >= {"ok", "pong", "error", "event", "gap", "ended", "dropped", "close"}
    for reference in re.findall(r'"\$ref":\s*"#/([^"]+)"', json.dumps(document)):
        at = document
        for step in reference.split("/"):
            at = at[step]


async def test_what_the_socket_says_is_what_the_streams_document_says(api: Api) -> None:
    from websockets.asyncio.client import connect

    document = (await api.client.get("/asyncapi.json")).json()
    schemas = {"components": document["components"]}

    def check(text: str | bytes) -> str:
        message = json.loads(text)
        kind = next(
            one for one in document["components"]["messages"].values()
            if one["name"] == message["type"]
        )  # fmt: skip
        jsonschema_rs.validator_for({**kind["payload"], **schemas}).validate(message)
        return str(message["type"])

    headers = await api.bearer("alice")
    async with connect(api.running.ws_url, additional_headers=headers) as socket:
        said = []
        for command in (
            {"action": "ping", "id": 1},
            {"action": "subscribe", "channels": ["public.>"], "id": "s"},
            {"action": "publish", "channel": "public.lobby", "data": 1},
            {"action": "nothing"},
            {"action": "unsubscribe", "subscription": 1},
        ):
            await socket.send(json.dumps(command))
            said.append(check(await socket.recv()))
            if command["action"] == "publish":
                said.append(check(await socket.recv()))
    assert sorted(said) == ["error", "event", "ok", "ok", "ok", "pong"]


def test_an_example_of_each_command_is_a_command() -> None:
    document = asyncapi.build()
    for name, message in document["components"]["messages"].items():
        schema = document["components"]["schemas"].get(name, {})
        if "action" not in schema.get("properties", {}):
            continue
        filled = {key: _sample(key) for key in schema["required"]} | {"action": message["name"]}
        if message["name"] == "ack":
            filled["cursor"] = "c-1"
        assert type(parse(json.dumps(filled).encode())).__name__ == name


def _sample(name: str) -> Any:
    return ["public.lobby"] if name == "channels" else "text"


# --- texts ------------------------------------------------------------------


async def test_the_skill_has_front_matter_and_says_what_to_trust(api: Api) -> None:
    text = (await api.client.get("/skill.md")).text
    head = re.match(r"---\nname: ([a-z0-9-]{1,64})\ndescription: ([^\n]{1,1024})\n---\n", text)
    assert head is not None and head[1] == "clawnet"
    for heading in ("trust", "Come in", "Publish", "Read", "Limits", "Errors"):
        assert heading in text


async def test_every_link_of_llms_txt_leads_somewhere(api: Api) -> None:
    text = (await api.client.get("/llms.txt")).text
    assert text.startswith("# ") and "\n> " in text
    links = re.findall(r"\]\((http[^)]+)\)", text)
    assert {link.removeprefix(api.running.url) for link in links} >= {
        "/skill.md", "/openapi.json", "/docs", "/asyncapi.json",
    }  # fmt: skip
    headers = await api.bearer("alice")
    for link in links:
        assert (await api.client.get(link, headers=headers)).status_code == 200, link


async def test_instructions_are_the_callers_own(api: Api) -> None:
    path = "/api/v1/instructions"
    nobody = await api.client.get(path)
    assert nobody.status_code == 200 and "You have no account yet" in nobody.text
    wrong = {"Authorization": "Bearer claw_wrong"}
    check_problem(await api.client.get(path, headers=wrong), 401, "unauthenticated")
    headers = await api.bearer("alice")
    about = (await api.client.get(path, params={"format": "json"}, headers=headers)).json()
    assert about["account"] == "alice" and about["data_max_bytes"] == 65_536
    check_problem(await api.client.get(path, params={"format": "xml"}), 400, "bad_request")
    plain = await api.client.get(path, headers=headers)
    assert "You are `alice`" in plain.text and api.running.url in plain.text
    wrapped = await api.client.get(path, params={"for": "codex"}, headers=headers)
    assert wrapped.text.partition("\n")[2] == plain.text
    check_problem(
        await api.client.get(path, params={"for": "you"}, headers=headers), 400, "bad_request"
    )


def test_a_start_pays_for_no_document() -> None:
    code = (
        "import sys, clawnet.doors.http.app;"
        "print([n for n in ('openapi','asyncapi','page','skill','llms')"
        " if 'clawnet.doors.http.documents.' + n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
