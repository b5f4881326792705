"""`tandem certs init` and `tandem keys new`."""

from collections.abc import Sequence
from pathlib import Path

import pydantic

from tandem.cluster.commands.terminal import open_terminal
from tandem.core.environment import read_environment
from tandem.core.errors import ConfigError, InvalidArgument
from tandem.core.ids import Tenant
from tandem.rpc.certs import LOOPBACK_HOSTS, write_development_set
from tandem.rpc.keys import issue_key


def run_certs_init(folder: Path, *, hosts: Sequence[str]) -> None:
    """Write a development set for loopback and ``hosts``. Raises ConfigError when the folder holds one."""
    terminal = open_terminal(read_environment())
    try:
        written = write_development_set(folder, hosts=[*LOOPBACK_HOSTS, *hosts])
    except OSError as error:
        raise ConfigError(f"{folder}: can't write here: {error.strerror}", remedy="name a folder of yours") from error
    terminal.say(
        f"wrote {written.ca} and {', '.join(path.name for path in written.folders)} (certificate and key each)"
    )
    terminal.say("valid for 30 days, for development only; in cluster.yaml:")
    terminal.say(_tls_lines(folder))


def run_keys_new(key_id: str, tenant: str, *, operator: bool) -> None:
    """Print a new key and its configuration entry. Raises InvalidArgument for a bad name."""
    terminal = open_terminal(read_environment())
    try:
        key = issue_key(key_id, Tenant(tenant), operator=operator)
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        field = {"id": "--id", "tenant": "--tenant"}.get(str(problem["loc"][0]), "key")
        raise InvalidArgument(
            field,
            f"is {problem['input']!r}, which is not a name that fits",
            remedy="use 1 to 32 small letters, digits and dashes",
        ) from error
    terminal.note("The key, shown this once; give it to its owner, who saves it in a file for --key-file:")
    terminal.say(key.text)
    terminal.note("\nIn cluster.yaml, under router:")
    terminal.say(
        f"keys:\n  - id: {key_id}\n    tenant: {tenant}\n    sha256: {key.entry.sha256}"
        + ("\n    operator: true" if operator else "")
    )


def _tls_lines(folder: Path) -> str:
    def files(role: str) -> str:
        return f"{{certificate: {folder / role / 'cert.pem'}, key: {folder / role / 'key.pem'}"

    ca = folder / "ca.pem"
    return (
        f"router:\n  tls: {files('router')}}}\n  internal_tls: {files('router')}, ca: {ca}}}\n"
        f"workers:\n  tls: {files('decode')}, ca: {ca}}}"
    )
