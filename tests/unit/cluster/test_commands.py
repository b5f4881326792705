"""What single commands write and refuse, without a cluster."""

import hashlib
import json
import re
import stat
from pathlib import Path
from typing import Any

import pytest

from tandem.client import AsyncClient, GenerateOptions
from tandem.cluster.cli.app import main
from tandem.cluster.commands.chat import Conversation
from tandem.cluster.commands.connection import Connection
from tandem.cluster.commands.demo import DemoPlan, command_line, demo_config, paste_lines
from tandem.cluster.commands.sampling import parse_logit_bias, sampling_options
from tandem.cluster.commands.up import allow_insecure
from tandem.cluster.config.model import ClusterConfig
from tandem.cluster.run_state import RunStates
from tandem.core.config.yaml_file import load_yaml_config
from tandem.core.environment import Environment
from tandem.core.errors import ConfigError, EnvironmentProblem, InvalidArgument
from tandem.router.placement import PlacementMode
from tandem.rpc.config import ApiKey
from tandem.rpc.keys import KeyRing
from tests.unit.cluster.test_run_state import state


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return int(ended.value.code or 0)


def environment(tmp_path: Path) -> Environment:
    return Environment(
        cache_folder=tmp_path / "c", run_folder=tmp_path / "run", no_color=True, hub_offline=True, test_failpoints=None
    )


# --- init ---------------------------------------------------------------------------------------------------------


def test_init_writes_a_file_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new"
    assert run("init", str(folder)) == 0
    assert load_yaml_config(folder / "cluster.yaml", ClusterConfig).pools.decode.replicas == 1
    assert (folder / "cluster.yaml").read_text().startswith("# yaml-language-server: $schema=cluster.schema.json\n")
    assert json.loads((folder / "cluster.schema.json").read_text())["title"] == "Tandem cluster.yaml"
    assert f"tandem up -f {folder / 'cluster.yaml'}" in capsys.readouterr().out


def test_init_never_overwrites_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cluster.yaml").write_text("mine")
    assert run("init", str(tmp_path)) == 1
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "cluster.yaml").read_text() == "mine"
    assert not (tmp_path / "cluster.schema.json").exists()
    assert run("init", str(tmp_path), "--force") == 0
    assert (tmp_path / "cluster.yaml").read_text() != "mine"


def test_init_where_nobody_may_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run("init", str(tmp_path / "file" / "x")) == 1
    assert "can't write here" in capsys.readouterr().err


# --- certs and keys -----------------------------------------------------------------------------------------------


def test_certs_make_a_set_that_a_configuration_can_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("certs", "init", str(tmp_path / "certs"), "--host", "10.0.0.7") == 0
    shown = capsys.readouterr().out
    lines = shown[shown.index("router:") :]
    (tmp_path / "cluster.yaml").write_text("model: {source: x}\n" + lines)
    config = load_yaml_config(tmp_path / "cluster.yaml", ClusterConfig)
    assert config.workers.tls is not None
    assert config.router.tls is not None
    assert config.workers.tls.load().ca
    assert config.router.tls.load().certificate
    key = tmp_path / "certs" / "router" / "key.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert run("certs", "init", str(tmp_path / "certs")) == 1
    assert "exists already" in capsys.readouterr().err


def test_a_key_is_shown_once_and_its_hash_recognises_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("keys", "new", "--id", "app", "--tenant", "acme", "--operator") == 0
    out = capsys.readouterr().out
    text, entry = out.split("\n", 1)
    assert hashlib.sha256(text.encode()).hexdigest() in entry
    (tmp_path / "cluster.yaml").write_text("model: {source: x}\nrouter:\n  " + entry.replace("\n", "\n  "))
    keys = load_yaml_config(tmp_path / "cluster.yaml", ClusterConfig).router.keys
    assert isinstance(keys[0], ApiKey)
    assert KeyRing(keys).find(f"Bearer {text}").tenant == "acme"
    assert keys[0].operator


@pytest.mark.parametrize("bad", ["Has_Capitals", "", "x" * 33])
def test_a_bad_key_name_is_refused(bad: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("keys", "new", "--id", bad, "--tenant", "acme") == 1
    assert f"--id: is {bad!r}, which is not a name that fits" in capsys.readouterr().err


# --- connections --------------------------------------------------------------------------------------------------


def test_without_an_address_it_is_the_cluster_of_this_machine(tmp_path: Path) -> None:
    here = environment(tmp_path)
    with pytest.raises(EnvironmentProblem, match="no cluster runs here"):
        Connection().public_client(here, timeout_s=1.0)
    RunStates(here.run_folder).write(state())
    assert _address(Connection().public_client(here, timeout_s=1.0)) == "127.0.0.1:1"
    assert _address(Connection().internal_client(here, timeout_s=1.0)) == "127.0.0.1:2"
    assert _address(Connection(address="127.0.0.1:7").public_client(here, timeout_s=1.0)) == "127.0.0.1:7"


def test_a_secured_cluster_is_called_with_tls(tmp_path: Path) -> None:
    here = environment(tmp_path)
    RunStates(here.run_folder).write(state(secured=True))
    assert _settings(Connection().public_client(here, timeout_s=1.0)).tls is not None
    assert _settings(Connection().internal_client(here, timeout_s=1.0)).tls is None


def test_plain_text_elsewhere_must_be_wanted(tmp_path: Path) -> None:
    here = environment(tmp_path)
    with pytest.raises(ConfigError, match="--insecure"):
        Connection(address="10.1.2.3:1").public_client(here, timeout_s=1.0)
    Connection(address="10.1.2.3:1", insecure=True).public_client(here, timeout_s=1.0)


def test_a_key_comes_from_a_file(tmp_path: Path) -> None:
    here = environment(tmp_path)
    (tmp_path / "key").write_text("tandem_app_secret\n")
    client = Connection(address="127.0.0.1:1", key_file=tmp_path / "key").public_client(here, timeout_s=1.0)
    assert _settings(client).api_key == "tandem_app_secret"
    with pytest.raises(ConfigError, match="none: can't read the key: No such file or directory"):
        Connection(address="127.0.0.1:1", key_file=tmp_path / "none").public_client(here, timeout_s=1.0)


def _settings(client: AsyncClient) -> Any:
    return client._settings


def _address(client: AsyncClient) -> str:
    return str(_settings(client).address)


# --- small parts --------------------------------------------------------------------------------------------------


def test_only_given_options_are_sent() -> None:
    assert sampling_options(max_tokens=None, temperature=0.0, seed=0, model="", n=1) == GenerateOptions(
        temperature=0.0, seed=0, n=1
    )


def test_a_conversation_is_kept_and_forgotten() -> None:
    talk = Conversation("be brief")
    assert [m["role"] for m in talk.with_question("a") if isinstance(m, dict)] == ["system", "user"]
    talk.keep("a", "b")
    sent = talk.with_question("c")
    assert [m["content"] for m in sent if isinstance(m, dict)] == ["be brief", "a", "b", "c"]
    assert talk.num_turns == 2
    talk.forget()
    assert [m["content"] for m in talk.with_question("d") if isinstance(m, dict)] == ["be brief", "d"]


def test_insecure_reaches_both_ends() -> None:
    config = ClusterConfig.model_validate({"model": {"source": "x"}})
    assert not config.router.insecure
    assert not config.workers.insecure
    opened = allow_insecure(config)
    assert opened.router.insecure
    assert opened.workers.insecure
    assert opened.model == config.model


def test_the_demo_is_always_split() -> None:
    plan = DemoPlan(once=True, runtime="ray", question="?", source="builtin:smollm2")
    config = demo_config(plan, name="demo", port=0)
    assert config.router.placement.mode is PlacementMode.SPLIT
    assert config.runtime.kind == "ray"
    assert (config.pools.prefill.replicas, config.pools.decode.replicas) == (1, 1)
    assert config.router.host == "127.0.0.1"


def test_lines_to_paste() -> None:
    generate, python, status = paste_lines("127.0.0.1:8700", "demo")
    assert re.search(r"tandem'? generate --chat \".+\"$", generate)
    assert "Client('127.0.0.1:8700')" in python
    assert status.endswith(" status")
    assert paste_lines("127.0.0.1:1", "demo-7")[2].endswith(" status --name demo-7")


def test_the_command_is_named_so_that_a_shell_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command_line() != "tandem"
    assert "tandem" in command_line()


def test_logit_bias_is_read_from_words() -> None:
    assert parse_logit_bias(["42=-5", "7=0.5"]) == {42: -5.0, 7: 0.5}
    assert parse_logit_bias([]) is None


@pytest.mark.parametrize("word", ["42", "=1", "x=1", "42=much"])
def test_a_bias_that_is_none_is_named(word: str) -> None:
    with pytest.raises(InvalidArgument, match="TOKEN_ID=NUMBER"):
        parse_logit_bias([word])
