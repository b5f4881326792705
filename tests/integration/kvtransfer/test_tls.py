"""The TCP transport under mutual TLS: right certificates work, others never get as far as Hello."""

import datetime
import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tandem.core import reasons
from tandem.core.blocks import AttemptKey
from tandem.core.clock import MonotonicClock
from tandem.core.ids import RequestId
from tandem.kvtransfer import KvReceiverService, KvSenderService
from tests.fakes.kv_blocks import FakeBlocks
from tests.fakes.kv_pair import SMALL_LAYOUT, KvPair, RecordedEvents, eventually

KEY = AttemptKey(RequestId("a" * 32), 0)


def make_authority(folder: Path, name: str) -> None:
    """Write ``<name>-ca.pem`` and a certificate it signed, ``<name>.pem``, for 127.0.0.1 in both roles."""
    now = datetime.datetime.now(datetime.UTC)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} authority")])

    def build(subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
        )

    authority = (
        build(ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = (
        build(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key.public_key())
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / f"{name}-ca.pem").write_bytes(authority.public_bytes(pem))
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / f"{name}.pem").write_bytes(private + leaf.public_bytes(pem))


def context(folder: Path, name: str, *, trusts: str, purpose: int) -> ssl.SSLContext:
    made = ssl.SSLContext(purpose)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.load_verify_locations(folder / f"{trusts}-ca.pem")
    made.load_cert_chain(folder / f"{name}.pem")
    made.verify_mode = ssl.CERT_REQUIRED
    return made


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    make_authority(folder, "cluster")
    make_authority(folder, "stranger")
    return folder


def make_pair(sender_tls: ssl.SSLContext | None, receiver_tls: ssl.SSLContext | None) -> KvPair:
    source, target = (FakeBlocks(64, SMALL_LAYOUT.block_bytes) for _ in range(2))
    sent, received = RecordedEvents(), RecordedEvents()
    clock = MonotonicClock()
    receiver = KvReceiverService(
        worker_id="d",
        epoch=2,
        layout=SMALL_LAYOUT,
        destination=target,
        events=received,
        listen_host="127.0.0.1",
        clock=clock,
        tls=receiver_tls,
        transports=["tcp"],
    )
    sender = KvSenderService(
        worker_id="p", epoch=1, layout=SMALL_LAYOUT, source=source, events=sent, clock=clock, tls=sender_tls
    )
    return KvPair(sender, receiver, source, target, sent, received)


def test_mutual_tls(certificates: Path) -> None:
    client = context(certificates, "cluster", trusts="cluster", purpose=ssl.PROTOCOL_TLS_CLIENT)
    server = context(certificates, "cluster", trusts="cluster", purpose=ssl.PROTOCOL_TLS_SERVER)
    pair = make_pair(client, server)
    try:
        data = pair.fill(KEY, 40)
        grant = pair.expect(KEY, 40)
        pair.sender.grant(grant)
        pair.offer_all(KEY)
        pair.seal(KEY)
        pair.sent.wait(lambda: KEY in pair.sent.committed)
        assert pair.target_bytes(grant) == data
    finally:
        pair.close()


@pytest.mark.parametrize("sender", ["stranger", "no certificate", "plain"])
def test_others_never_reach_hello(certificates: Path, sender: str) -> None:
    server = context(certificates, "cluster", trusts="cluster", purpose=ssl.PROTOCOL_TLS_SERVER)
    client: ssl.SSLContext | None = None
    if sender == "stranger":
        client = context(certificates, "stranger", trusts="cluster", purpose=ssl.PROTOCOL_TLS_CLIENT)
    elif sender == "no certificate":
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.load_verify_locations(certificates / "cluster-ca.pem")
    pair = make_pair(client, server)
    try:
        pair.fill(KEY, 2)
        pair.sender.grant(pair.expect(KEY, 2))
        pair.offer_all(KEY)
        pair.seal(KEY)
        pair.sent.wait(lambda: KEY in pair.sent.failed)
        assert pair.sent.failed[KEY] == (reasons.KV_PEER_LOST, True)
        assert pair.target.num_writes == 0
        eventually(lambda: not pair.receiver._links)
    finally:
        pair.close()
