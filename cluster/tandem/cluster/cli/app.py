"""The command's surface: names, arguments, help. Commands import what they do when they are called.

``tandem --help`` must answer at once: the configuration model, gRPC and the rest take a second or more to import.
"""
# ruff: noqa: PLC0415, PLR0917

import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from tandem.cluster.cli import options as opt
from tandem.cluster.cli.cache import cache_app
from tandem.cluster.cli.errors import run_guarded
from tandem.cluster.cli.policy import policy_app
from tandem.cluster.cli.watching import add_watching

app = typer.Typer(
    name="tandem",
    help="Serve one language model from a prefill pool and a decode pool.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
certs_app = typer.Typer(help="Certificates for development.", no_args_is_help=True)
keys_app = typer.Typer(help="Bearer keys of callers.", no_args_is_help=True)
app.add_typer(certs_app, name="certs")
app.add_typer(keys_app, name="keys")
app.add_typer(cache_app, name="cache")
app.add_typer(policy_app, name="policy")
add_watching(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tandem {version('tandem-llm')}")
        raise typer.Exit


@app.callback()
def _global(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; may stand anywhere on the line.")] = False,
    shown: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Take the options of every command; `main` reads --debug itself, wherever it stands."""


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="Answer one question and end.")] = False,
    runtime: Annotated[opt.RuntimeKind, typer.Option(help="Who runs the workers.")] = opt.RuntimeKind.local,
    question: Annotated[str, typer.Option(help="What to ask.")] = "What is the capital of France?",
    model: Annotated[str, typer.Option(help="What to serve.")] = "builtin:smollm2",
) -> None:
    """Serve a real model with one prefill and one decode worker, and ask it something."""
    from tandem.cluster.commands.demo import DemoPlan, run_demo

    run_demo(DemoPlan(once=once, runtime=runtime.value, question=question, source=model))


@app.command()
def up(
    file: Annotated[Path, typer.Option("--file", "-f", help="The cluster's description.")] = Path("cluster.yaml"),
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow plain text and missing keys beyond this machine.")
    ] = False,
) -> None:
    """Start a cluster and stay until it is ended (Ctrl-C drains)."""
    from tandem.cluster.commands.up import run_up

    run_up(file, insecure=insecure)


@app.command()
def down(
    name: opt.Name = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that the drain may take.")] = 90.0,
    force: Annotated[bool, typer.Option("--force", help="End it at once when the time is over.")] = False,
) -> None:
    """Drain and end a cluster of this machine."""
    from tandem.cluster.commands.down import run_down

    run_down(name, timeout_s=timeout, force=force)


@app.command()
def status(
    name: opt.Name = None,
    address: Annotated[str | None, typer.Option(help="Internal address of a router, host:port.")] = None,
    ca: opt.Ca = None,
    cert: opt.Cert = None,
    key: opt.Key = None,
    key_file: opt.KeyFile = None,
    insecure: opt.Insecure = False,
    as_json: opt.AsJson = False,
) -> None:
    """Show a running cluster: model, workers, load."""
    from tandem.cluster.commands.connection import Connection
    from tandem.cluster.commands.status import run_status

    connection = Connection(
        name=name, address=address, ca=ca, certificate=cert, key=key, key_file=key_file, insecure=insecure
    )
    run_status(connection, as_json=as_json)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="The text to continue; - reads it from standard input.")],
    chat: Annotated[
        bool, typer.Option("--chat", help="Send it as a message, through the model's chat template.")
    ] = False,
    stream: Annotated[bool, typer.Option("--stream/--no-stream", help="Print tokens as they come.")] = True,
    as_json: opt.AsJson = False,
    max_tokens: opt.MaxTokens = None,
    temperature: opt.Temperature = None,
    top_k: opt.TopK = None,
    top_p: opt.TopP = None,
    min_p: opt.MinP = None,
    repetition_penalty: opt.RepetitionPenalty = None,
    presence_penalty: opt.PresencePenalty = None,
    frequency_penalty: opt.FrequencyPenalty = None,
    logit_bias: opt.LogitBias = None,
    seed: opt.Seed = None,
    stop: opt.Stop = None,
    n: Annotated[int, typer.Option("-n", help="How many answers.")] = 1,
    logprobs: Annotated[int | None, typer.Option(help="Likeliest tokens to list per position (with --json).")] = None,
    model: opt.Model = "",
    name: opt.Name = None,
    address: opt.Address = None,
    ca: opt.Ca = None,
    cert: opt.Cert = None,
    key: opt.Key = None,
    key_file: opt.KeyFile = None,
    insecure: opt.Insecure = False,
    timeout: opt.Timeout = 120.0,
) -> None:
    """Ask a running cluster to go on with a text."""
    from tandem.cluster.commands.connection import Connection
    from tandem.cluster.commands.generate import Wanted, run_generate
    from tandem.cluster.commands.sampling import parse_logit_bias, sampling_options

    connection = Connection(
        name=name, address=address, ca=ca, certificate=cert, key=key, key_file=key_file, insecure=insecure
    )
    options = sampling_options(
        max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed, stop=stop,
        n=n, logprobs=logprobs, model=model, repetition_penalty=repetition_penalty, presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty, logit_bias=parse_logit_bias(logit_bias),
    )  # fmt: skip
    wanted = Wanted(prompt=prompt, as_chat=chat, stream=stream, as_json=as_json, timeout_s=timeout)
    run_generate(connection, wanted, options)


@app.command()
def chat(
    system: Annotated[str | None, typer.Option(help="What the model is told first.")] = None,
    max_tokens: opt.MaxTokens = None,
    temperature: opt.Temperature = None,
    top_k: opt.TopK = None,
    top_p: opt.TopP = None,
    min_p: opt.MinP = None,
    seed: opt.Seed = None,
    model: opt.Model = "",
    name: opt.Name = None,
    address: opt.Address = None,
    ca: opt.Ca = None,
    cert: opt.Cert = None,
    key: opt.Key = None,
    key_file: opt.KeyFile = None,
    insecure: opt.Insecure = False,
    timeout: opt.Timeout = 120.0,
) -> None:
    """Talk with a running cluster; it remembers the conversation. Lines may also come from a pipe."""
    from tandem.cluster.commands.chat import run_chat
    from tandem.cluster.commands.connection import Connection
    from tandem.cluster.commands.sampling import sampling_options

    connection = Connection(
        name=name, address=address, ca=ca, certificate=cert, key=key, key_file=key_file, insecure=insecure
    )
    options = sampling_options(
        max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed, model=model
    )
    run_chat(connection, options, system=system, timeout_s=timeout)


@app.command()
def doctor(
    as_json: opt.AsJson = False,
) -> None:
    """Look at this machine: what works, what is missing, what to do about it."""
    from tandem.cluster.commands.doctor import run_doctor

    run_doctor(as_json=as_json)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Where to write.")] = Path("."),
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")] = False,
) -> None:
    """Write a commented cluster.yaml to begin with."""
    from tandem.cluster.commands.init import run_init

    run_init(folder, force=force)


@certs_app.command("init")
def certs_init(
    folder: Annotated[Path, typer.Argument(help="Where to write.")] = Path("certs"),
    host: Annotated[
        list[str] | None, typer.Option(help="Name or address that servers are reached by; may be repeated.")
    ] = None,
) -> None:
    """Make a development authority and a certificate for every part of a cluster."""
    from tandem.cluster.commands.secrets import run_certs_init

    run_certs_init(folder, hosts=host or [])


@keys_app.command("new")
def keys_new(
    key_id: Annotated[str, typer.Option("--id", help="Public name of the key: small letters, digits, dashes.")],
    tenant: Annotated[str, typer.Option(help="Who calls with it.")],
    operator: Annotated[bool, typer.Option("--operator", help="May also see and change the cluster.")] = False,
) -> None:
    """Make a key: print it once, and the lines for cluster.yaml, which hold only its hash."""
    from tandem.cluster.commands.secrets import run_keys_new

    run_keys_new(key_id, tenant, operator=operator)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 a named problem, 2 a wrong command line, 130 interrupted."""
    run_guarded(app, list(sys.argv[1:] if arguments is None else arguments))
