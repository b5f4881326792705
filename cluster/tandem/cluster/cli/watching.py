"""`tandem decisions`, `tandem explain` and `tandem top`: what the cluster decided, why, and how it fares."""
# ruff: noqa: PLC0415, PLR0917

from typing import Annotated

import typer

from tandem.cluster.cli import options as opt

Internal = Annotated[str | None, typer.Option(help="Internal address of a router, host:port.")]
Routers = Annotated[
    list[str] | None,
    typer.Option("--address", help="Internal address of a router, host:port; one for each of several routers."),
]


def decisions(
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="admission, waiting, placement, recovery, handover, worker, end or controller; may be repeated."
        ),
    ] = None,
    request: Annotated[str, typer.Option(help="Only those about this request.")] = "",
    tenant: Annotated[str, typer.Option(help="Only those about this tenant's requests: its name or its hash.")] = "",
    since: Annotated[str, typer.Option(help="Not older than: 30s, 5m, 2h, 1d or a time.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, the latest.")] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new ones (Ctrl-C ends).")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
    name: opt.Name = None,
    address: Routers = None,
    ca: opt.Ca = None,
    cert: opt.Cert = None,
    key: opt.Key = None,
    key_file: opt.KeyFile = None,
    insecure: opt.Insecure = False,
) -> None:
    """List what the routers decided, and why: admission, placement, recovery, workers, the controller's rounds."""
    from tandem.cluster.commands.asking import connections_to
    from tandem.cluster.commands.connection import Connection
    from tandem.cluster.commands.decisions import filter_of, run_decisions

    connection = Connection(name=name, ca=ca, certificate=cert, key=key, key_file=key_file, insecure=insecure)
    wanted = filter_of(kinds=kind or [], request=request, tenant=tenant, since=since, limit=limit)
    run_decisions(connections_to(connection, address or []), wanted, follow=follow, as_json=as_json)


def explain(
    request_id: Annotated[str, typer.Argument(help="The request's id, as its answer or its error names it.")],
    as_json: opt.AsJson = False,
    name: opt.Name = None,
    address: Routers = None,
    ca: opt.Ca = None,
    cert: opt.Cert = None,
    key: opt.Key = None,
    key_file: opt.KeyFile = None,
    insecure: opt.Insecure = False,
) -> None:
    """Tell the life of one request: why it was admitted or not, went where it went, failed, was tried again."""
    from tandem.cluster.commands.asking import connections_to
    from tandem.cluster.commands.connection import Connection
    from tandem.cluster.commands.decisions import run_explain

    connection = Connection(name=name, ca=ca, certificate=cert, key=key, key_file=key_file, insecure=insecure)
    run_explain(connections_to(connection, address or []), request_id, as_json=as_json)


def top(
    once: Annotated[bool, typer.Option("--once", help="Show it once, as plain text, and end.")] = False,
    interval: Annotated[float, typer.Option(min=0.2, max=60.0, help="Seconds between two looks.")] = 2.0,
    name: opt.Name = None,
    address: Internal = None,
    ca: opt.Ca = None,
    cert: opt.Cert = None,
    key: opt.Key = None,
    key_file: opt.KeyFile = None,
    insecure: opt.Insecure = False,
) -> None:
    """Watch the cluster: pools, queues, promises kept, throughput, cache, ratio over time (q ends)."""
    from tandem.cluster.commands.connection import Connection
    from tandem.cluster.commands.top import run_top

    connection = Connection(
        name=name, address=address, ca=ca, certificate=cert, key=key, key_file=key_file, insecure=insecure
    )
    run_top(connection, once=once, interval_s=interval)


def add_watching(app: typer.Typer) -> None:
    """Add the three commands."""
    for command in (decisions, explain, top):
        app.command()(command)
