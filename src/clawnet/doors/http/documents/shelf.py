"""Where the documents lie: built once and off the loop, then filled in for each of the hub's URLs.

A client chooses the Host it asks by, so what is kept for each URL is bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from clawnet.doors.http.describe import Routes

PLACEHOLDER = "http://hub.invalid"
"""Stands for the hub's URL while a document is built; as safe a text as every URL of place.py."""
PAGES_MAX = 64


class Page(NamedTuple):
    """One document for one URL."""

    body: bytes
    etag: bytes


class Shelf:
    """The documents of one door."""

    def __init__(self, routes: Callable[[], Routes]) -> None:
        self._routes = routes
        self._bases: dict[str, asyncio.Future[bytes]] = {}
        self._pages: dict[tuple[str, str], Page] = {}

    async def page(self, name: str, url: str) -> Page:
        """The document `name` (front, openapi, asyncapi, docs, skill, llms) with this URL."""
        page = self._pages.get((name, url))
        if page is None:
            base = self._bases.get(name)
            if base is None:
                # A document takes some 10 ms to build, which is too long for the loop.
                work = asyncio.to_thread(render, name, self._routes())
                base = self._bases[name] = asyncio.ensure_future(work)
            try:
                whole = await asyncio.shield(base)
            except Exception:  # a defect of the builder: told as such, and tried again
                self._bases.pop(name, None)
                raise
            body = fill_in(name, whole, url)
            page = Page(body, b'"%b"' % blake2b(body, digest_size=12).hexdigest().encode())
            if len(self._pages) >= PAGES_MAX:
                self._pages.clear()
            self._pages[name, url] = page
        return page


def render(name: str, routes: Routes) -> bytes:
    """Build a document with the placeholder. Imports what it takes, so that no start pays."""
    from clawnet.doors.http.documents import asyncapi, front, llms, openapi, page, skill

    match name:
        case "openapi":
            return _json(openapi.build(routes, url=PLACEHOLDER))
        case "asyncapi":
            return _json(asyncapi.build())
        case "docs":
            return page.render(openapi.build(routes, url=PLACEHOLDER)).encode()
        case "front":
            return front.render(PLACEHOLDER).encode()
        case "skill":
            return skill.render(PLACEHOLDER).encode()
        case _:
            return llms.render(PLACEHOLDER).encode()


def fill_in(name: str, whole: bytes, url: str) -> bytes:
    """A built document for one URL."""
    if name == "asyncapi":
        from clawnet.doors.http.documents import asyncapi

        return asyncapi.fill_in(whole, url)
    return whole.replace(PLACEHOLDER.encode(), url.encode())


def _json(document: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"
