"""claw up: start a hub."""

from __future__ import annotations

import os

import click

from clawnet.cli.options import Command, invocation


@click.command(cls=Command, short_help="Start a hub.")
@click.option("--bind", metavar="ADDRESS", help="Where to listen; 127.0.0.1, if not given.")
@click.option("--port", type=click.IntRange(0, 65_535), metavar="N", help="8080; 0: a free one.")
@click.option("--data-dir", metavar="PATH", help="Where to keep everything.")
@click.option(
    "--engine", type=click.Choice(["sqlite", "memory"]),
    help="sqlite keeps events on disk; memory forgets them at the end.",
)  # fmt: skip
@click.option("--tls-cert", metavar="FILE", help="Speak TLS with this certificate chain (PEM).")
@click.option("--tls-key", metavar="FILE", help="The certificate's private key (PEM).")
@click.option(
    "--dev", is_flag=True, default=None,
    help="Log more, and let programs of this machine make accounts (claw dev-register).",
)  # fmt: skip
@click.option("--public-url", metavar="URL", help="The hub's URL as its clients reach it.")
@click.option(
    "--behind-proxy", multiple=True, metavar="CIDR",
    help="A trusted reverse proxy's network. May be repeated.",
)  # fmt: skip
def up(
    bind: str | None,
    port: int | None,
    data_dir: str | None,
    engine: str | None,
    dev: bool | None,
    behind_proxy: tuple[str, ...],
    tls_cert: str | None,
    tls_key: str | None,
    public_url: str | None,
) -> int:
    """Start a hub and run it until Ctrl-C or SIGTERM.

    Prints one line when it listens. The admin's token lies in the data
    folder. Settings come from flags, then CLAWNET_* variables, then
    config.toml in $XDG_CONFIG_HOME/clawnet.

    Beyond this machine it listens only if --bind says so; every request then
    needs a token. A certificate that was renewed is read anew on SIGHUP.
    """
    from clawnet.app.app import up as run
    from clawnet.app.config import load

    at = invocation()
    flags = {
        "bind": bind,
        "port": port,
        "data_dir": data_dir,
        "engine": engine,
        "dev": dev,
        "behind_proxy": behind_proxy,
        "tls_cert": tls_cert,
        "tls_key": tls_key,
        "public_url": public_url,
    }
    settings = load(
        flags=flags,
        environment=os.environ,
        file=at.places.config,
        is_file_required=at.config is not None and at.config.endswith(".toml"),
    )
    return run(settings)
