"""Manifests against their schemas: Kubernetes' own kinds, and custom resources with unknown fields refused.

The API server *drops* a field that a custom resource's schema does not know, so that a typing error has no other effect
than that the setting is missing.  Here it is an error.
"""

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import jsonschema
import kubernetes_validate

from tests.unit.deploy.chart import ROOT, Manifest
from tests.unit.deploy.selectors import Finding

CRD_FOLDER = ROOT / "tests" / "data" / "k8s"
# The oldest and the newest release that the chart is meant for.
KUBERNETES_RELEASES = ("1.27", "1.37")
_OWN_ROOT_FIELDS = ("apiVersion", "kind", "metadata")


def schema_findings(manifests: list[Manifest]) -> Iterator[Finding]:
    """One finding per violation."""
    for manifest in manifests:
        where = f"{manifest['kind']}/{manifest['metadata']['name']}"
        api_version = (manifest["apiVersion"], manifest["kind"])
        if api_version in custom_kinds():
            for error in _validator(api_version).iter_errors(manifest):
                yield Finding(rule="schema", where=f"{where} {error.json_path}", message=error.message)
        else:
            yield from _builtin(manifest, where)


def _builtin(manifest: Manifest, where: str) -> Iterator[Finding]:
    for release in KUBERNETES_RELEASES:
        try:
            kubernetes_validate.validate(manifest, release, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield Finding(rule="schema", where=f"{where} {error.json_path} ({release})", message=error.message)
        except kubernetes_validate.SchemaNotFoundError as error:
            yield Finding(rule="schema", where=where, message=error.message)


@cache
def custom_kinds() -> dict[tuple[str, str], dict[str, Any]]:
    """Closed schemas of the custom resources by (apiVersion, kind)."""
    found = {}
    for path in sorted(CRD_FOLDER.glob("*/*.json")):
        crd = json.loads(path.read_text(encoding="utf-8"))
        schema = close(crd["schema"])
        # The embedded object's own fields are the API server's business.
        schema["properties"]["metadata"] = {"type": "object"}
        found[f"{crd['group']}/{crd['version']}", crd["kind"]] = schema
    if not found:
        raise LookupError(f"no custom resource schema under {CRD_FOLDER}")
    return found


@cache
def _validator(api_version: tuple[str, str]) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(custom_kinds()[api_version])


def close(schema: Any) -> Any:
    """An OpenAPI v3 schema of a custom resource as a JSON Schema that refuses unknown fields."""
    if isinstance(schema, list):
        return [close(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: close(value) for key, value in schema.items() if key not in ("properties", "default", "enum")}
    if "enum" in schema:
        closed["enum"] = schema["enum"]
    if "properties" in schema:
        closed["properties"] = {name: close(value) for name, value in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in schema:
            closed["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        closed.pop("anyOf", None)
        closed["type"] = ["integer", "string"]
    if schema.get("nullable"):
        closed["type"] = [schema["type"], "null"]
    return closed
