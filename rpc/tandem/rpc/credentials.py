"""The credentials gRPC makes of certificates and keys."""

from collections.abc import Callable

import grpc

from tandem.core.errors import ConfigError
from tandem.rpc.tls import TlsMaterial


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
