"""Configuration of this component: TLS files and API keys."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from tandem.core.config.model import ConfigModel
from tandem.core.ids import Tenant
from tandem.rpc.tls import TlsMaterial, read_tls


class TlsFiles(ConfigModel):
    """Paths of PEM files for one end of a connection."""

    certificate: Path | None = None
    """Certificate chain of this end; needed on a server."""
    key: Path | None = None
    """Private key of that certificate."""
    ca: Path | None = None
    """Certificates that the other end's must come from; on a server this demands client certificates (mTLS)."""

    def load(self) -> TlsMaterial:
        """Read the files. Raises ConfigError naming the one that can't be read."""
        return read_tls(ca=self.ca, certificate=self.certificate, key=self.key)


class ApiKey(ConfigModel):
    """One bearer key. The key itself, ``tandem_<id>_<secret>``, is shown once when it is made and never stored."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")]
    """Public part of the key, by which it is found."""
    tenant: Annotated[Tenant, Field(min_length=1, max_length=64)]
    """Who pays for requests with this key, and whose cache they share."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the whole key, in hexadecimal."""
    operator: bool = False
    """Whether the key may also see and change the state of the cluster."""
