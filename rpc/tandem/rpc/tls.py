"""Certificates and keys for one end of a connection, as bytes. No gRPC in here."""

from dataclasses import dataclass, field
from pathlib import Path

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
