"""What holds for one call of `claw`: the server, the token, the form of the answers."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clawnet.cli.places import Credentials, Places, default_data_dir, load, places, save
from clawnet.core.errors import BadConfiguration, ClawError

if TYPE_CHECKING:
    from clawnet.client.address import Address
    from clawnet.client.http import HubHttp


@dataclass(kw_only=True)
class Invocation:
    """The global options, as far as they were given, and what follows from them.

    Flags win over the environment, the environment over the credentials' file.
    """

    config: str | None = None
    server: str | None = None
    token: str | None = None
    is_json: bool = False
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    @cached_property
    def places(self) -> Places:
        return places(self.config)

    @cached_property
    def credentials(self) -> Credentials:
        return load(self.places.credentials)

    @cached_property
    def address(self) -> Address:
        """The hub to talk to."""
        from clawnet.client.address import DEFAULT, parse_address

        named = self.server or self._variable("CLAWNET_SERVER", "CLAW_API_URL")
        return parse_address(named or self.credentials.server or DEFAULT)

    @cached_property
    def effective_token(self) -> str | None:
        """The token to show, if there is one for this server."""
        if self.token is not None:
            return self.token
        named = self._variable("CLAWNET_TOKEN", "CLAW_TOKEN")
        if named:
            return named
        file = self._variable("CLAWNET_TOKEN_FILE")
        if file:
            return _read_secret("CLAWNET_TOKEN_FILE", Path(file))
        return self.credentials.tokens.get(self.address.url)

    def keep_token(self, url: str, token: str) -> None:
        """Keep the token of a hub, which later commands talk to. Says so if it takes a place.

        Raises BadConfiguration for a token that no header could hold.
        """
        from clawnet.cli.terminal import note
        from clawnet.client.address import check_token

        token = check_token(token) or ""
        if url in self.credentials.tokens:
            note(
                f"The token kept for {url} before is forgotten here."
                " Use --config FOLDER to be several accounts on one machine."
            )
        named = next((n for n in ("CLAWNET_TOKEN", "CLAW_TOKEN") if self._variable(n)), None)
        if named is not None:
            note(f"{named} is set and wins over the kept token until you unset it.")
        tokens = {**self.credentials.tokens, url: token}
        save(self.places.credentials, Credentials(url, tokens))

    def hub(self, *, timeout_s: float = 30.0) -> HubHttp:
        """The hub, for plain calls."""
        from clawnet.client.http import HubHttp

        return HubHttp(self.address.url, self.effective_token, timeout_s=timeout_s)

    def call(self, method: str, path: str, **more: Any) -> Any:
        """One call of the hub's API; a refusal for want of a token says how to get one."""
        try:
            return self.hub().call(method, path, **more)
        except ClawError as error:
            raise self.explained(error) from None

    def explained(self, error: ClawError) -> ClawError:
        """The error, with the command that helps if it is a token that is missing.

        A token lying in the hub's data folder is only pointed at: it is a
        master's, and a command that took it silently would do with all rights
        what was meant to be done with few.
        """
        if error.code not in ("unauthenticated", "forbidden") or self.effective_token is not None:
            return error
        error.next = (
            "Run claw join LINK, or claw login --token TOKEN. The hub's operator makes a link with"
            " claw invite, and a token with claw token create --account YOU."
        )
        token = self.admin_token_file()
        if token is not None:
            error.next = f'Run claw login --token "$(cat {token})" to act as the hub\'s admin.'
        return error

    def admin_token_file(self) -> Path | None:
        """The admin token of this machine's own hub, if this user may read it."""
        if not self.address.is_loopback:
            return None
        given = self._variable("CLAWNET_DATA_DIR", "DATA_DIR")
        path = (Path(given) if given else default_data_dir()) / "admin.token"
        return path if os.access(path, os.R_OK) else None

    def _variable(self, *names: str) -> str | None:
        return next((self.environment[name] for name in names if self.environment.get(name)), None)


def _read_secret(name: str, path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise BadConfiguration(f"{name}: {path} cannot be read ({reason}).") from None
