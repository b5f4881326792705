"""`tandem policy …`: names, arguments, help. Imports what it does when it is called, as `tandem.cluster.cli.app`."""
# ruff: noqa: PLC0415, PLR0917

from pathlib import Path
from typing import Annotated

import typer

from tandem.cluster.cli import options as opt

policy_app = typer.Typer(help="Autoscaling policies: check, compare, apply, convert.", no_args_is_help=True)

Internal = Annotated[str | None, typer.Option(help="Internal address of a router, host:port.")]


@policy_app.command("validate")
def policy_validate(
    files: Annotated[list[Path], typer.Argument(help="Policies to check.")],
) -> None:
    """Check policies; every problem is named with its line, its field and what to do."""
    from tandem.cluster.commands.policy import run_validate

    run_validate(files)


@policy_app.command("diff")
def policy_diff(
    old: Annotated[Path, typer.Argument(help="The policy as it was.")],
    new: Annotated[Path, typer.Argument(help="The policy as it shall be.")],
    as_json: opt.AsJson = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="End with status 1 when they differ.")] = False,
) -> None:
    """Show what differs between two policies, defaults filled in."""
    from tandem.cluster.commands.policy import run_diff

    if run_diff(old, new, as_json=as_json) and exit_code:
        raise typer.Exit(1)


@policy_app.command("apply")
def policy_apply(
    file: Annotated[Path, typer.Option("--file", "-f", help="The policy.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and compare; apply nothing.")] = False,
    name: opt.Name = None,
    address: Internal = None,
    ca: opt.Ca = None,
    cert: opt.Cert = None,
    key: opt.Key = None,
    key_file: opt.KeyFile = None,
    insecure: opt.Insecure = False,
) -> None:
    """Give the running cluster a policy; its controller takes it up without a restart. Shows what is new in it."""
    from tandem.cluster.commands.connection import Connection
    from tandem.cluster.commands.policy import run_apply

    connection = Connection(
        name=name, address=address, ca=ca, certificate=cert, key=key, key_file=key_file, insecure=insecure
    )
    run_apply(file, connection, dry_run=dry_run)


@policy_app.command("convert")
def policy_convert(
    files: Annotated[
        list[Path], typer.Argument(help="HorizontalPodAutoscalers (autoscaling/v2), or a Ray Serve file.")
    ],
    prefill: Annotated[str | None, typer.Option(help="Name of the autoscaler or deployment of prefill.")] = None,
    decode: Annotated[str | None, typer.Option(help="Name of the autoscaler or deployment of decode.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write; standard output if not set.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that exists.")] = False,
) -> None:
    """Make a policy out of another autoscaler's file; what can't be carried over is noted in it."""
    from tandem.cluster.commands.policy import run_convert
    from tandem.core.types import Role

    given = {Role.PREFILL: prefill, Role.DECODE: decode}
    names = {role: name for role, name in given.items() if name is not None}
    run_convert(files, names=names, output=output, force=force)
