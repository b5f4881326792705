"""Certificates inside a cluster: roles, strangers, rotation, and the development set."""

import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from tandem.core.errors import ConfigError, PermissionDenied, TandemError, Unavailable
from tandem.core.ids import Epoch, WorkerId
from tandem.core.types import Role, WorkerInfo
from tandem.rpc.access import AccessControl, PeerRole
from tandem.rpc.auth import ROLE_URI
from tandem.rpc.certs import Authority, issue, new_authority, write_development_set
from tandem.rpc.channels import INTERNAL_LIMITS, open_channel
from tandem.rpc.config import TlsFiles
from tandem.rpc.context import CallContext
from tandem.rpc.server import RpcServer
from tandem.rpc.services.admin import registry_service
from tandem.rpc.stubs.admin import RegistryStub
from tandem.rpc.tls import TlsMaterial, read_tls

AUTHORITY: Authority = new_authority()
INFO = WorkerInfo(
    worker_id=WorkerId("decode-0"),
    epoch=Epoch(7),
    role=Role.DECODE,
    address="127.0.0.1:1",
    model="m",
    model_digest="d",
    layout_fingerprint="f",
    block_size=16,
    total_blocks=64,
    max_context_tokens=512,
    max_sequences=8,
    pid=1,
    host="here",
)


class Registry:
    """Remembers who registered."""

    def __init__(self) -> None:
        self.workers: dict[WorkerId, WorkerInfo] = {}

    async def register(self, worker: WorkerInfo, ttl_s: float, call: CallContext) -> None:
        self.workers[worker.worker_id] = worker

    async def deregister(self, worker_id: WorkerId, epoch: Epoch, call: CallContext) -> None:
        if self.workers[worker_id].epoch == epoch:
            del self.workers[worker_id]

    async def list_registered(self, call: CallContext) -> list[WorkerInfo]:
        return list(self.workers.values())


class Certificates:
    """What the server presents; tests replace it."""

    def __init__(self, material: TlsMaterial) -> None:
        self.material: TlsMaterial | None = material

    def load(self) -> TlsMaterial:
        if self.material is None:
            raise ConfigError("half-written file")
        return self.material


@asynccontextmanager
async def serving(certificates: Certificates) -> AsyncIterator[str]:
    server = RpcServer(
        address="127.0.0.1:0",
        access=AccessControl(mutual_tls=True),
        load_tls=certificates.load,
        limits=INTERNAL_LIMITS,
    )
    server.add(registry_service(Registry()))
    try:
        yield await server.start()
    finally:
        await server.stop(grace_s=0)


@pytest.fixture
async def address() -> AsyncIterator[str]:
    async with serving(Certificates(issue(AUTHORITY, role=PeerRole.ROUTER))) as bound:
        yield bound


async def register(address: str, tls: TlsMaterial | None) -> tuple[WorkerInfo, ...]:
    channel = open_channel(address, tls=tls)
    try:
        registry = RegistryStub(channel)
        await registry.register(INFO, ttl_s=5, timeout_s=20)
        return await registry.list_registered(timeout_s=20)
    finally:
        await channel.close(None)


async def test_a_worker_registers_lists_and_leaves(address: str) -> None:
    channel = open_channel(address, tls=issue(AUTHORITY, role=PeerRole.DECODE))
    registry = RegistryStub(channel)
    await registry.register(INFO, ttl_s=5, timeout_s=20)
    await registry.deregister(INFO.worker_id, Epoch(8), timeout_s=20)
    assert await registry.list_registered(timeout_s=20) == (INFO,)
    await registry.deregister(INFO.worker_id, INFO.epoch, timeout_s=20)
    assert await registry.list_registered(timeout_s=20) == ()
    await channel.close(None)


@pytest.mark.parametrize("role", [PeerRole.ROUTER, PeerRole.CONTROLLER, PeerRole.OPERATOR])
async def test_another_role_may_not_register(address: str, role: PeerRole) -> None:
    with pytest.raises(PermissionDenied) as caught:
        await register(address, issue(AUTHORITY, role=role))
    assert caught.value.reason == "WRONG_ROLE"


def _strangers() -> Iterator[TlsMaterial | None]:
    own = issue(AUTHORITY, role=PeerRole.DECODE)
    other = issue(new_authority(), role=PeerRole.DECODE)
    long_ago = datetime.now(UTC) - timedelta(days=90)
    yield None  # plain text
    yield TlsMaterial(ca=AUTHORITY.certificate)  # no certificate of its own
    yield TlsMaterial(ca=AUTHORITY.certificate, certificate=other.certificate, key=other.key)  # another authority's
    yield issue(AUTHORITY, role=PeerRole.DECODE, now=long_ago)  # expired
    yield TlsMaterial(ca=other.ca, certificate=own.certificate, key=own.key)  # does not trust this server


@pytest.mark.parametrize("tls", [*_strangers()], ids=["plain", "none", "foreign", "expired", "distrusting"])
async def test_strangers_do_not_connect(address: str, tls: TlsMaterial | None) -> None:
    with pytest.raises(Unavailable):
        await register(address, tls)


async def test_a_server_for_other_hosts_is_not_believed() -> None:
    elsewhere = issue(AUTHORITY, role=PeerRole.ROUTER, hosts=("example.org", "10.0.0.1"))
    async with serving(Certificates(elsewhere)) as address:
        with pytest.raises(TandemError):
            await register(address, issue(AUTHORITY, role=PeerRole.DECODE))


async def test_rotated_certificates_are_used_without_a_restart() -> None:
    certificates = Certificates(issue(AUTHORITY, role=PeerRole.ROUTER))
    async with serving(certificates) as address:
        assert await register(address, issue(AUTHORITY, role=PeerRole.DECODE)) == (INFO,)
        certificates.material = None  # being replaced at this moment: the old ones stay in use
        assert await register(address, issue(AUTHORITY, role=PeerRole.DECODE)) == (INFO,)
        fresh = new_authority()
        certificates.material = issue(fresh, role=PeerRole.ROUTER)
        assert await register(address, issue(fresh, role=PeerRole.DECODE)) == (INFO,)
        with pytest.raises(Unavailable):
            await register(address, issue(AUTHORITY, role=PeerRole.DECODE))


def test_a_certificate_says_role_and_hosts() -> None:
    material = issue(AUTHORITY, role=PeerRole.PREFILL, hosts=("worker.example.org", "10.1.2.3", "::1"))
    certificate = x509.load_pem_x509_certificate(material.certificate or b"")
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"{ROLE_URI}prefill"]
    assert names.get_values_for_type(x509.DNSName) == ["worker.example.org"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["10.1.2.3", "::1"]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certificate.not_valid_after_utc - datetime.now(UTC) < timedelta(days=31)


async def test_a_written_set_works_and_keeps_its_keys_private(tmp_path: Path) -> None:
    written = write_development_set(tmp_path / "certs")
    assert {folder.name for folder in written.folders} == set(PeerRole)
    for folder in written.folders:
        assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = {
        role: TlsFiles(
            ca=written.ca,
            certificate=written.ca.parent / role / "cert.pem",
            key=written.ca.parent / role / "key.pem",
        )
        for role in ("router", "decode")
    }
    async with serving(Certificates(files["router"].load())) as address:
        assert await register(address, files["decode"].load()) == (INFO,)
    with pytest.raises(ConfigError, match="exists already"):
        write_development_set(tmp_path / "certs")


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    missing = tmp_path / "nothing.pem"
    with pytest.raises(ConfigError, match=r"nothing\.pem: can't read it"):
        read_tls(ca=missing)
    with pytest.raises(ConfigError, match="belong together"):
        read_tls(certificate=missing)
    assert TlsFiles().load() == TlsMaterial()


def test_keys_do_not_show_in_logs() -> None:
    material = issue(AUTHORITY, role=PeerRole.ROUTER)
    assert "PRIVATE" not in repr(material)
    assert "PRIVATE" not in repr(AUTHORITY)
