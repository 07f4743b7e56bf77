"""/docs: the OpenAPI document as one page to read. No script, no asset from anywhere.

Everything that comes out of the document is escaped; the policy lets only this one style apply.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html import escape
from typing import Any
from urllib.parse import urlencode

Json = dict[str, Any]

_DEPTH_MAX = 4
_QUERIES = {"channels": "public.lobby", "q": "prices", "key_name": "main"}
"""What a line to try says for parameters without which it would not work."""

_STYLE = """
:root{color-scheme:light dark;--fg:#1c2024;--dim:#5b6570;--bg:#fff;--box:#f4f5f7;--line:#dcdfe4;
--get:#1a6fb5;--post:#1e7f4a;--put:#8a5a00;--patch:#8a5a00;--delete:#b3261e}
@media (prefers-color-scheme:dark){:root{--fg:#e4e7eb;--dim:#9aa4af;--bg:#14171a;--box:#1d2126;
--line:#31373e;--get:#6db3f2;--post:#5fcf92;--put:#e0b056;--patch:#e0b056;--delete:#f28b82}}
*{box-sizing:border-box}
body{margin:0;font:16px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg)}
main{max-width:60rem;margin:0 auto;padding:2rem 1.25rem 6rem}
h1{font-size:1.9rem;margin:0}h2{margin:3rem 0 .5rem;padding-bottom:.3rem;
border-bottom:2px solid var(--line);font-size:1.35rem}
h3{font-size:1rem;margin:0;font-weight:600}
a{color:var(--get);text-decoration:none}a:hover{text-decoration:underline}
code,pre{font:.86rem/1.5 ui-monospace,monospace}
pre{background:var(--box);padding:.7rem .9rem;border-radius:6px;margin:.6rem 0;
white-space:pre-wrap;overflow-wrap:anywhere}
nav{display:flex;flex-wrap:wrap;gap:.3rem 1rem;margin:1.2rem 0;font-size:.95rem}
section>p,.dim{color:var(--dim);margin:.2rem 0}
details{border:1px solid var(--line);border-radius:8px;margin:.6rem 0}
summary{padding:.55rem .9rem;cursor:pointer;display:flex;gap:.8rem;flex-wrap:wrap;
align-items:baseline}
details>div{padding:.2rem .9rem .8rem;border-top:1px solid var(--line)}
.m{font:700 .8rem ui-monospace,monospace;width:4.2rem;text-transform:uppercase}
.get{color:var(--get)}.post{color:var(--post)}.put,.patch{color:var(--put)}
.delete{color:var(--delete)}
.what{color:var(--dim);margin-left:auto;font-size:.93rem;text-align:right}
table{border-collapse:collapse;width:100%;font-size:.92rem;margin:.5rem 0}
th,td{text-align:left;vertical-align:top;padding:.3rem .7rem .3rem 0;
border-bottom:1px solid var(--line)}
th{color:var(--dim);font-weight:500}
h4{margin:1rem 0 .2rem;font-size:.9rem}
"""

POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "style-src 'sha256-" + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode() + "'"
)
"""The Content-Security-Policy of the page: its one style by hash, and nothing else."""


def render(document: Json) -> str:
    """The page."""
    info, url = document["info"], document["servers"][0]["url"]
    tags = document["tags"]
    links = "".join(f'<a href="#{escape(tag["name"])}">{escape(tag["name"])}</a>' for tag in tags)
    others = " · ".join(
        f'<a href="{escape(url + path)}">{escape(path)}</a>'
        for path in ("/openapi.json", "/asyncapi.json", "/skill.md", "/llms.txt")
    )
    sections = "".join(_section(tag, document, url) for tag in tags)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(info['title'])} API</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>{escape(info['title'])} API</h1>"
        f'<p class="dim">Version {escape(info["version"])} at <code>{escape(url)}</code></p>'
        f"<p>{_prose(info['description'])}</p>"
        "<p>Send a token as <code>Authorization: Bearer TOKEN</code>; the lines below take it "
        f"from <code>$TOKEN</code>.</p><p>{others}</p><nav>{links}</nav>{sections}"
        f"{_errors(document)}</main></body></html>\n"
    )


def _section(tag: Json, document: Json, url: str) -> str:
    parts = [
        _operation(path, method, operation, document, url)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if tag["name"] in operation["tags"]
    ]
    name = escape(tag["name"])
    return (
        f'<section id="{name}"><h2>{name}</h2><p>{_prose(tag["description"])}</p>'
        f"{''.join(parts)}</section>"
    )


def _operation(path: str, method: str, operation: Json, document: Json, url: str) -> str:
    verb = escape(method)
    parts = [
        f'<details><summary><span class="m {verb}">{verb}</span>',
        f"<h3><code>{escape(path)}</code></h3>",
        f'<span class="what">{_prose(operation["summary"])}</span></summary><div>',
    ]
    if "description" in operation:
        parts.append(f"<p>{_prose(operation['description'])}</p>")
    parts.append(f'<p class="dim">{_access(operation["security"])}</p>')
    parts.append(f"<pre>{escape(_curl(path, method, operation, document, url))}</pre>")
    if operation["parameters"]:
        rows = "".join(_parameter(one) for one in operation["parameters"])
        parts.append(f"<h4>Parameters</h4><table>{rows}</table>")
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"<h4>Body, {escape(media_type)}</h4>{_members(content['schema'], document)}")
    parts.append("<h4>Answers</h4><table>")
    for status, answer in operation["responses"].items():
        parts.append(
            f"<tr><td><code>{escape(status)}</code></td><td>{_answer(answer, document)}</td></tr>"
        )
    parts.append("</table></div></details>")
    return "".join(parts)


def _prose(text: str) -> str:
    """A sentence of the document: escaped, and what stands in backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _access(security: list[Json]) -> str:
    if not security:
        return "Needs no token."
    if {} in security:
        return "Works without a token where anybody may read."
    return "Needs a token."


def _parameter(one: Json) -> str:
    where = one["in"] + (", required" if one["required"] else "")
    return (
        f"<tr><td><code>{escape(one['name'])}</code></td><td>{escape(where)}</td>"
        f"<td>{escape(_kind(one['schema']))}</td><td>{_prose(one.get('description', ''))}</td></tr>"
    )


def _answer(answer: Json, document: Json) -> str:
    if "$ref" in answer:
        answer = document["components"]["responses"][answer["$ref"].rpartition("/")[2]]
    parts = [_prose(answer["description"])]
    for media_type, content in answer.get("content", {}).items():
        schema = content["schema"]
        codes = schema.get("properties", {}).get("code", {}).get("enum")
        if codes:
            parts.append("<br>" + ", ".join(f"<code>{escape(code)}</code>" for code in codes))
        else:
            parts.append(f' <span class="dim">{escape(media_type)}</span>')
            parts.append(_members(schema, document))
    return "".join(parts)


def _members(schema: Json, document: Json) -> str:
    found = _resolved(schema, document)
    if not found.get("properties"):
        return f'<p class="dim">{escape(_kind(schema))}</p>'
    required = set(found.get("required", ()))
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td>"
        f"<td>{'required' if name in required else ''}</td><td>{escape(_kind(kind))}</td></tr>"
        for name, kind in found["properties"].items()
    )
    return f"<p>{_prose(found.get('description', ''))}</p><table>{rows}</table>"


def _kind(schema: Json) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "enum" in schema:
        return " | ".join(json.dumps(value, ensure_ascii=False) for value in schema["enum"])
    if "anyOf" in schema:
        return " | ".join(_kind(one) for one in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    bounds = [
        f"{word} {schema[key]}"
        for key, word in (
            ("minimum", "from"), ("maximum", "to"), ("minLength", "at least"),
            ("maxLength", "at most"), ("default", "else"),
        )
        if schema.get(key) not in (None, "")
    ]  # fmt: skip
    return " ".join([str(schema.get("type", "any JSON")), *bounds])


def _curl(path: str, method: str, operation: Json, document: Json, url: str) -> str:
    shown = path
    for one in operation["parameters"]:
        if one["in"] == "path":
            usual = "public.lobby" if one["name"] == "channel" else one["name"].upper()
            shown = shown.replace(f"{{{one['name']}}}", one.get("example", usual))
    names = {one["name"] for one in operation["parameters"] if one["in"] == "query"}
    query = next((f"?{name}={value}" for name, value in _QUERIES.items() if name in names), "")
    is_stream = "stream" in path or path.startswith("/sub/")
    words = ["curl"]
    words += ["-N"] if is_stream else []
    words += ["-X", method.upper()] if method != "get" else []
    if operation["security"]:
        words.append('-H "Authorization: Bearer $TOKEN"')
    content = operation.get("requestBody", {}).get("content", {})
    for media_type, body in content.items():
        if media_type == "application/json":
            value = body.get("example", _example(body["schema"], document))
            sample = json.dumps(value, ensure_ascii=False)
            words += ["-H 'Content-Type: application/json'", f"-d '{sample}'"]
        elif media_type == "application/x-www-form-urlencoded":
            words += ["-u ACCOUNT:TOKEN", f"-d '{urlencode(body['example'])}'"]
        else:
            words.append("-d 'hello'")
    return " ".join([*words, f"'{url}{shown}{query}'"])


def _example(schema: Json, document: Json, depth: int = 0) -> Any:
    """A value of this schema with what is required of it."""
    found = _resolved(schema, document)
    if "default" in found and depth:
        return found["default"]
    if "anyOf" in found:
        return _example(found["anyOf"][0], document, depth + 1)
    if "enum" in found:
        return found["enum"][0]
    kind = found.get("type")
    if kind == "object" and depth < _DEPTH_MAX:
        required = found.get("required", ())
        return {
            name: "public.lobby" if name == "channel" else _example(inner, document, depth + 1)
            for name, inner in found.get("properties", {}).items()
            if name in required
        }
    if kind == "array":
        return [_example(found.get("items", {}), document, depth + 1)]
    if kind in ("integer", "number"):
        return max(1, found.get("minimum", 1))
    return {"boolean": True, "string": "text", "null": None}.get(kind or "", "hello")


def _resolved(schema: Json, document: Json) -> Json:
    found = schema
    while "$ref" in found:
        found = document["components"]["schemas"][str(found["$ref"]).rpartition("/")[2]]
    return found


def _errors(document: Json) -> str:
    schema = document["components"]["schemas"]["Problem"]
    return (
        '<section id="errors"><h2>errors</h2><p>Every refusal is application/problem+json.</p>'
        f"{_members(schema, document)}"
        "<p>What each code means, and what to do: <code>claw explain CODE</code>.</p></section>"
    )
