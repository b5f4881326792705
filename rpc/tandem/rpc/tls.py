"""Certificates and keys for one end of a connection, as bytes, and the credentials gRPC makes of them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from tandem.core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsMaterial:
    """PEM texts. A server needs certificate and key; with ``ca`` it asks clients for certificates (mTLS).

    A client needs ``ca`` (None = the system's), and certificate and key for mTLS.
    """

    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)


def read_tls(*, ca: Path | None = None, certificate: Path | None = None, key: Path | None = None) -> TlsMaterial:
    """Read PEM files. Raises ConfigError naming the file that can't be read, or a key without its certificate."""
    if (certificate is None) != (key is None):
        present = certificate or key
        raise ConfigError(
            f"{present}: certificate and key belong together, and one is not set",
            remedy="set both, or neither; `tandem certs init` makes a development set",
        )
    return TlsMaterial(ca=_read(ca), certificate=_read(certificate), key=_read(key))


def channel_credentials(material: TlsMaterial) -> grpc.ChannelCredentials:
    """Return client credentials."""
    return grpc.ssl_channel_credentials(
        root_certificates=material.ca, private_key=material.key, certificate_chain=material.certificate
    )


def server_credentials(load: Callable[[], TlsMaterial]) -> grpc.ServerCredentials:
    """Return server credentials that ask ``load`` again at every new connection, so that rotated files are used.

    When ``load`` fails then, the last good material stays in use. Raises ConfigError when the first one lacks
    certificate or key.
    """
    material = load()
    if material.certificate is None or material.key is None:
        raise ConfigError("a TLS server needs a certificate and a key", remedy="set both files")
    first = _configuration(material)
    state = {"material": material}

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        try:
            fresh = load()
        except ConfigError:
            return None  # half-written files: keep what we have, ask again at the next connection
        if fresh == state["material"] or fresh.certificate is None or fresh.key is None:
            return None
        state["material"] = fresh
        return _configuration(fresh)

    return grpc.dynamic_ssl_server_credentials(
        first,
        fetch,  # type: ignore[arg-type]  # None = nothing new, which its stubs leave out
        require_client_authentication=material.ca is not None,
    )


def _configuration(material: TlsMaterial) -> grpc.ServerCertificateConfiguration:
    pair = (material.key or b"", material.certificate or b"")
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=material.ca)


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: can't read it ({error.strerror})",
            remedy="check the path; `tandem certs init` makes a development set",
        ) from error
