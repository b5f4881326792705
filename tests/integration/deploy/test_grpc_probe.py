"""The readiness probe of a router with TLS, against a real health service."""

import datetime
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

PROBE = Path(__file__).parents[3] / "deploy" / "helm" / "tandem" / "files" / "grpc_probe.py"
SERVICE = "tandem.inference.v1.InferenceService"
LIMIT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A health service behind TLS."""

    target: str
    certificate: Path
    states: health.HealthServicer


def _self_signed(name: str, folder: Path) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    (folder / f"{name}.crt").write_bytes(pem)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, pem


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    private, pem = _self_signed("localhost", tmp_path)
    states = health.HealthServicer()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    health_pb2_grpc.add_HealthServicer_to_server(states, server)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(private, pem)]))
    server.start()
    yield Served(target=f"localhost:{port}", certificate=tmp_path / "localhost.crt", states=states)
    server.stop(None).wait(LIMIT_S)


def _probe(target: str, certificate: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PROBE), target, SERVICE, str(certificate)],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def test_a_serving_router_is_ready(served: Served) -> None:
    served.states.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
    result = _probe(served.target, served.certificate)
    assert result.returncode == 0, result.stderr


def test_a_router_that_does_not_serve_yet_is_not_ready(served: Served) -> None:
    served.states.set(SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)
    result = _probe(served.target, served.certificate)
    assert result.returncode == 1
    assert "NOT_SERVING" in result.stderr


def test_an_unknown_service_is_not_ready(served: Served) -> None:
    result = _probe(served.target, served.certificate)
    assert result.returncode == 1
    assert "NOT_FOUND" in result.stderr


def test_a_certificate_from_elsewhere_is_not_trusted(served: Served, tmp_path: Path) -> None:
    served.states.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
    _self_signed("elsewhere", tmp_path)
    result = _probe(served.target, tmp_path / "elsewhere.crt")
    assert result.returncode == 1
    assert "DEADLINE_EXCEEDED" in result.stderr
