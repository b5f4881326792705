"""A development certificate authority and certificates for the parts of a cluster. Not for production use.

A role is written into the certificate as URI ``spiffe://tandem/role/<role>``; servers read it from there.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tandem.core.errors import ConfigError
from tandem.rpc.access import PeerRole
from tandem.rpc.auth import ROLE_URI
from tandem.rpc.tls import TlsMaterial

LOOPBACK_HOSTS: Final = ("localhost", "127.0.0.1", "::1")
_CLOCK_SKEW: Final = timedelta(minutes=5)
_CA_DAYS: Final = 365


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A certificate authority: its certificate and its key, as PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenCertificates:
    """What ``write_development_set`` made: the authority's certificate, and one (certificate, key) folder per role."""

    ca: Path
    folders: tuple[Path, ...]


def new_authority(now: datetime | None = None) -> Authority:
    """Make an authority that is valid for a year."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Tandem development authority")])
    start = (now or datetime.now(UTC)) - _CLOCK_SKEW
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=_CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate=certificate.public_bytes(serialization.Encoding.PEM), key=_private_pem(key))


def issue(
    authority: Authority,
    *,
    role: PeerRole,
    hosts: Sequence[str] = LOOPBACK_HOSTS,
    valid_for: timedelta = timedelta(days=30),
    now: datetime | None = None,
) -> TlsMaterial:
    """Issue a certificate that serves ``hosts`` (names or IP addresses) and proves ``role`` as a client."""
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    issuer_key = serialization.load_pem_private_key(authority.key, password=None)
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
        raise ConfigError("the authority's key is not an elliptic-curve key", remedy="make a new set")
    key = ec.generate_private_key(ec.SECP256R1())
    start = (now or datetime.now(UTC)) - _CLOCK_SKEW
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(ROLE_URI + role.value)]
    names += [_general_name(host) for host in hosts]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"tandem {role.value}")]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + _CLOCK_SKEW + valid_for)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    return TlsMaterial(
        ca=authority.certificate,
        certificate=certificate.public_bytes(serialization.Encoding.PEM),
        key=_private_pem(key),
    )


def write_development_set(folder: Path, *, hosts: Sequence[str] = LOOPBACK_HOSTS) -> WrittenCertificates:
    """Write ``ca.pem`` and ``<role>/{cert,key}.pem`` for every role; keys are for the owner's eyes only.

    The authority's own key is not written: a set is renewed as a whole. Raises ConfigError when ``folder`` already
    holds one.
    """
    ca_path = folder / "ca.pem"
    if ca_path.exists():
        raise ConfigError(f"{ca_path} exists already", remedy="remove the folder, or name another one")
    authority = new_authority()
    folder.mkdir(parents=True, exist_ok=True)
    ca_path.write_bytes(authority.certificate)
    folders = []
    for role in PeerRole:
        material = issue(authority, role=role, hosts=hosts)
        role_folder = folder / role.value
        role_folder.mkdir(mode=0o700, exist_ok=True)
        (role_folder / "cert.pem").write_bytes(material.certificate or b"")
        key_path = role_folder / "key.pem"
        key_path.touch(mode=0o600)
        key_path.write_bytes(material.key or b"")
        folders.append(role_folder)
    return WrittenCertificates(ca=ca_path, folders=tuple(folders))


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
