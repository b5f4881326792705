"""`tandem cache`: what the prefix cache holds, who uses it, and how to empty it."""
# ruff: noqa: PLC0415, PLR0917

from typing import Annotated

import typer

from tandem.cluster.cli import options as opt

cache_app = typer.Typer(help="The prefix cache: numbers, users, flushing.", no_args_is_help=True)

Internal = Annotated[str | None, typer.Option(help="Internal address of a router, host:port.")]


@cache_app.command()
def stats(
    name: opt.Name = None,
    address: Internal = None,
    ca: opt.Ca = None,
    cert: opt.Cert = None,
    key: opt.Key = None,
    key_file: opt.KeyFile = None,
    insecure: opt.Insecure = False,
    as_json: opt.AsJson = False,
) -> None:
    """Show what each worker holds and how much it saved, and how well the router knows it."""
    from tandem.cluster.commands.cache import run_cache_stats
    from tandem.cluster.commands.connection import Connection

    connection = Connection(
        name=name, address=address, ca=ca, certificate=cert, key=key, key_file=key_file, insecure=insecure
    )
    run_cache_stats(connection, as_json=as_json)


@cache_app.command()
def top(
    name: opt.Name = None,
    address: Internal = None,
    ca: opt.Ca = None,
    cert: opt.Cert = None,
    key: opt.Key = None,
    key_file: opt.KeyFile = None,
    insecure: opt.Insecure = False,
    once: Annotated[bool, typer.Option("--once", help="Show it once and end.")] = False,
    interval: Annotated[float, typer.Option(min=0.2, max=60.0, help="Seconds between two looks.")] = 2.0,
) -> None:
    """Watch the tenants that use the cache most (Ctrl-C ends)."""
    from tandem.cluster.commands.cache import run_cache_top
    from tandem.cluster.commands.connection import Connection

    connection = Connection(
        name=name, address=address, ca=ca, certificate=cert, key=key, key_file=key_file, insecure=insecure
    )
    run_cache_top(connection, once=once, interval_s=interval)


@cache_app.command()
def flush(
    tenant: Annotated[str | None, typer.Option(help="Whose prefixes.")] = None,
    everybody: Annotated[bool, typer.Option("--all", help="The prefixes of all tenants.")] = False,
    name: opt.Name = None,
    address: Internal = None,
    ca: opt.Ca = None,
    cert: opt.Cert = None,
    key: opt.Key = None,
    key_file: opt.KeyFile = None,
    insecure: opt.Insecure = False,
) -> None:
    """Forget the cached prefixes of one tenant, or of all, pinned ones included."""
    from tandem.cluster.commands.cache import run_cache_flush
    from tandem.cluster.commands.connection import Connection

    connection = Connection(
        name=name, address=address, ca=ca, certificate=cert, key=key, key_file=key_file, insecure=insecure
    )
    run_cache_flush(connection, tenant=tenant, everybody=everybody)
