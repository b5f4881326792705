"""The linter of rendered manifests: schemas, rules for each pod, rules between objects."""

from tests.unit.deploy.chart import Manifest
from tests.unit.deploy.edge_rules import edge_findings
from tests.unit.deploy.pod_rules import pod_findings
from tests.unit.deploy.schema_rules import schema_findings
from tests.unit.deploy.selectors import Finding, pods_of


def lint(manifests: list[Manifest]) -> list[Finding]:
    """All findings; an empty list is a clean render."""
    pods = pods_of(manifests)
    return [*schema_findings(manifests), *pod_findings(pods), *edge_findings(manifests, pods)]
