"""From connection options to an address, certificates and a key."""

from dataclasses import dataclass
from pathlib import Path

from tandem.client import AsyncClient
from tandem.cluster.run_state import RunState, RunStates
from tandem.core.environment import Environment
from tandem.core.errors import ConfigError
from tandem.rpc.tls import TlsMaterial, read_tls


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """What a person said about the server to call; nothing = the cluster that runs on this machine."""

    name: str | None = None
    address: str | None = None
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    key_file: Path | None = None
    insecure: bool = False

    def state(self, environment: Environment) -> RunState | None:
        """Return the cluster of this machine, unless an address was given. Raises EnvironmentProblem without one."""
        return None if self.address is not None else RunStates(environment.run_folder).pick(self.name)

    def public_client(self, environment: Environment, *, timeout_s: float) -> AsyncClient:
        """Return a client of the port that serves requests."""
        state = self.state(environment)
        secured = state is not None and state.secured
        return self._client(self.address or (state.public_address if state else ""), secured, timeout_s)

    def internal_client(self, environment: Environment, *, timeout_s: float) -> AsyncClient:
        """Return a client of the port that serves operators."""
        state = self.state(environment)
        secured = state is not None and state.internal_secured
        return self._client(self.address or (state.internal_address if state else ""), secured, timeout_s)

    def _client(self, address: str, secured: bool, timeout_s: float) -> AsyncClient:
        wants_tls = secured or self.ca is not None or self.certificate is not None
        tls: TlsMaterial | None = (
            read_tls(ca=self.ca, certificate=self.certificate, key=self.key) if wants_tls else None
        )
        return AsyncClient(
            address, api_key=self._bearer(), tls=tls, insecure=self.insecure, timeout_s=timeout_s, retries=1
        )

    def _bearer(self) -> str | None:
        if self.key_file is None:
            return None
        try:
            return self.key_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise ConfigError(
                f"{self.key_file}: can't read the key: {why}", remedy="give a file that holds nothing but your key"
            ) from error
