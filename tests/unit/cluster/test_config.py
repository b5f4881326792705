"""`cluster.yaml`: examples, mistakes, schema."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from tandem.cluster.commands.init import TEMPLATE
from tandem.cluster.config.model import ClusterConfig
from tandem.cluster.config.schemas import SCHEMA_FILE, main, render_cluster_schema
from tandem.core.config.model import ConfigModel
from tandem.core.config.yaml_file import load_yaml_config, parse_yaml_config
from tandem.core.errors import ConfigError

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "deploy" / "examples").glob("*.cluster.yaml"))


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_load_and_fit_the_schema(path: Path) -> None:
    assert load_yaml_config(path, ClusterConfig).model.source
    jsonschema.validate(yaml.safe_load(path.read_text(encoding="utf-8")), json.loads(render_cluster_schema()))


def test_the_committed_schema_is_fresh() -> None:
    committed = (ROOT / "deploy" / "schemas" / SCHEMA_FILE).read_text(encoding="utf-8")
    assert committed == render_cluster_schema(), "run `make schemas`"


def test_the_schema_is_written_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["schemas", str(tmp_path / "new")])
    main()
    assert (tmp_path / "new" / SCHEMA_FILE).read_text(encoding="utf-8") == render_cluster_schema()


def test_what_init_writes_loads() -> None:
    config = parse_yaml_config(TEMPLATE, ClusterConfig, name="cluster.yaml")
    assert config.model.source == "builtin:smollm2"


def test_what_init_shows_as_defaults_are_the_defaults() -> None:
    """Every commented-out setting, switched on, changes nothing but what says so itself."""
    text = re.sub(
        r"^(\s*)# (\s*)(kv_memory_bytes|block_size|max_batched_tokens|cpus|gpus): ", r"\1\2\3: ", TEMPLATE, flags=re.M
    )
    shown = parse_yaml_config(text, ClusterConfig, name="cluster.yaml")
    plain = parse_yaml_config(TEMPLATE, ClusterConfig, name="cluster.yaml")
    assert shown.engine.kv_memory_bytes == 512 << 20
    assert shown.engine.model_copy(update={"kv_memory_bytes": None}) == plain.engine
    assert shown.pools == plain.pools


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model: {source: x}\npolls: {}\n", "c.yaml:2:1: polls: unknown key; did you mean 'pools'?"),
        (
            "model: {source: x}\npools: {decode: {replica: 2}}\n",
            "pools.decode.replica: unknown key; did you mean 'replicas'?",
        ),
        ("metadata: {name: x}\n", "model: is missing"),
        ("model: {source: ''}\n", "model.source"),
        ("model: {source: x}\nmetadata: {name: Not_a_name}\n", "c.yaml:2:12: metadata.name"),
        ("model: {source: x}\npools:\n  decode: {replicas: 0}\n", "decode.replicas must be at least 1"),
        ("model: {source: x}\nruntime: {kind: docker}\n", "runtime.kind"),
        ("model: {source: x}\ntransfer: {transports: []}\n", "transfer.transports"),
        ("model: {source: x}\ntransfer: {transports: [nixl]}\n", "transfer.transports[0]"),
        ("model: {source: x}\nregistry: {redis_url: localhost}\n", "registry.redis_url"),
        ("model: {source: x}\nengine: {kv_memory_bytes: 3 bananas}\n", "write it like 512MiB"),
        ("model: {source: x}\nrouter: {port: 99999}\n", "router.port"),
        ("apiVersion: tandem/v2\nmodel: {source: x}\n", "apiVersion"),
        ("model: {source: x}\nmodel: {source: y}\n", "is given twice"),
    ],
)
def test_mistakes_are_named_with_their_place(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_yaml_config(text, ClusterConfig, name="c.yaml")
    assert expected in str(raised.value)
    assert str(raised.value).startswith("c.yaml:")


def test_every_mistake_is_listed_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        parse_yaml_config("model: {source: x}\nrouter: {port: -1}\npolls: {}\n", ClusterConfig, name="c.yaml")
    assert len(str(raised.value).splitlines()) == 2


def test_every_field_is_described() -> None:
    undescribed: list[str] = []

    def visit(model: type[ConfigModel]) -> None:
        for name, field in model.model_fields.items():
            if not field.description:
                undescribed.append(f"{model.__name__}.{name}")
            if isinstance(field.annotation, type) and issubclass(field.annotation, ConfigModel):
                visit(field.annotation)

    visit(ClusterConfig)
    assert undescribed == []


def test_a_configuration_is_frozen() -> None:
    config = parse_yaml_config("model: {source: x}\n", ClusterConfig, name="c.yaml")
    with pytest.raises(ValueError, match="frozen"):
        config.kind = "Cluster"
