"""The same cluster with certificates on every connection and keys for callers, as the commands themselves make them."""

import re
from collections.abc import Iterator

import pytest
import yaml

from tandem.core.prepared_model import PreparedModel
from tests.fakes.command_line import CommandLine, write_config

NAME = "secured"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, tiny: PreparedModel) -> Iterator[CommandLine]:
    """Up with `certs init` and `keys new`, KV over TCP."""
    shell = CommandLine(tmp_path_factory.mktemp("secured") / "home")
    certs = shell.run("certs", "init", str(shell.folder / "certs"))
    assert certs.status == 0, certs.err
    sections = yaml.safe_load(certs.out[certs.out.index("router:") :])
    keys = []
    for key_id, more in (("app", ()), ("boss", ("--operator",))):
        made = shell.run("keys", "new", "--id", key_id, "--tenant", "acme", *more)
        text, entry = made.out.split("\n", 1)
        (shell.folder / f"{key_id}.key").write_text(text + "\n", encoding="utf-8")
        keys += yaml.safe_load(entry)["keys"]
    path = write_config(shell.folder, tiny, name=NAME)
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    config["router"] |= sections["router"] | {"keys": keys}
    config |= {"workers": sections["workers"], "transfer": {"transports": ["tcp"]}}
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    process = shell.start("up", "-f", str(path))
    try:
        shell.wait_up(process, NAME)
        yield shell
        assert shell.run("down", "--name", NAME).status == 0
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
    assert shell.leftovers() == []


ASK = ("generate", "hello there", "--max-tokens", "6", "--temperature", "0")


def test_a_caller_with_authority_and_key_is_served(running: CommandLine) -> None:
    done = running.run(*ASK, "--ca", "certs/ca.pem", "--key-file", "app.key", "--json")
    assert done.status == 0, done.err
    assert done.json()["timings"]["handover_ms"] > 0, "KV went over TCP, under TLS"


def test_without_a_key_nobody_is_served(running: CommandLine) -> None:
    done = running.run(*ASK, "--ca", "certs/ca.pem")
    assert done.status == 1
    assert "key" in done.err
    (running.folder / "wrong.key").write_text("tandem_app_" + "x" * 43)
    wrong = running.run(*ASK, "--ca", "certs/ca.pem", "--key-file", "wrong.key")
    assert (wrong.status, "not known here" in wrong.err) == (1, True)


def test_an_unknown_authority_is_not_trusted(running: CommandLine) -> None:
    done = running.run(*ASK, "--key-file", "app.key", "--timeout", "5")
    assert done.status == 1
    assert "Traceback" not in done.err


def test_status_takes_an_operators_certificate(running: CommandLine) -> None:
    operator = ("--ca", "certs/ca.pem", "--cert", "certs/operator/cert.pem", "--key", "certs/operator/key.pem")
    shown = running.run("status", *operator)
    assert shown.status == 0, shown.err
    assert re.search(r"decode-0\s+decode\s+ready", shown.out)
    decode = [word.replace("operator", "decode") for word in operator]
    refused = running.run("status", *decode)
    assert refused.status == 1
    boss = running.run("status", *decode, "--key-file", "boss.key")
    assert boss.status == 0, boss.err
