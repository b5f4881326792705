"""Writes the JSON Schemas of `cluster.yaml` and `policy.yaml`: ``python -m tandem.cluster.config.schemas FOLDER``."""

import json
import sys
from pathlib import Path

from tandem.cluster.config.model import ClusterConfig
from tandem.controller.policy import schema as policy_schema

SCHEMA_FILE = "cluster.schema.json"


def render_cluster_schema() -> str:
    """Return the schema as JSON text, ready for an editor's `$schema` line."""
    schema = ClusterConfig.model_json_schema(by_alias=True, mode="validation")
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Tandem cluster.yaml"}
    return json.dumps({**schema, **head}, indent=2, sort_keys=True) + "\n"


def main() -> None:
    """Write the schemas into the folder given as the first argument."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SCHEMA_FILE).write_text(render_cluster_schema(), encoding="utf-8")
    (folder / policy_schema.SCHEMA_FILE).write_text(policy_schema.render_policy_schema(), encoding="utf-8")


if __name__ == "__main__":
    main()
