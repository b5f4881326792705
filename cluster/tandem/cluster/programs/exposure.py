"""Which settings make a process more than a test's on loopback: with any of them, failpoints are refused. Zero I/O."""

from urllib.parse import urlsplit

from tandem.cluster.programs.config import (
    ControllerProgramConfig,
    RegistryTarget,
    RouterProgramConfig,
    WorkerProgramConfig,
)
from tandem.router.config import RouterConfig
from tandem.rpc.addresses import is_loopback


def worker_exposure(config: WorkerProgramConfig) -> list[str]:
    """Name what makes this worker reachable from other machines, or trusted by them."""
    found = [f"{name}={host}" for name, host in _worker_hosts(config) if not is_loopback(host)]
    found += (["tls"] if config.tls is not None else []) + (["insecure"] if config.insecure else [])
    return found + _registry_exposure(config.registry)


def controller_exposure(config: ControllerProgramConfig) -> list[str]:
    """Name what makes this controller one of other machines, or trusted by them."""
    flags = (["tls"] if config.tls is not None else []) + (["insecure"] if config.insecure else [])
    return flags + _registry_exposure(config.registry)


def router_program_exposure(config: RouterProgramConfig) -> list[str]:
    """The same of a router process, with the registry it looks into."""
    return router_exposure(config.router) + _registry_exposure(config.registry)


def router_exposure(config: RouterConfig) -> list[str]:
    """Name what makes this router reachable from other machines, or a holder of credentials."""
    found = [f"{name}={host}" for name, host in _router_hosts(config) if not is_loopback(host)]
    flags = {
        "tls": config.tls is not None,
        "internal_tls": config.internal_tls is not None,
        "keys": bool(config.keys),
        "insecure": config.insecure,
    }
    return found + [name for name, is_set in flags.items() if is_set]


def _registry_exposure(target: RegistryTarget) -> list[str]:
    """A registry of other machines, or one with credentials. Nothing of the URL is repeated but the host."""
    if target.kind != "redis":
        return []
    url = urlsplit(target.url)
    found = ["registry credentials"] if url.username or url.password or "password=" in url.query else []
    if url.scheme == "rediss":
        found.append("registry tls")
    if url.scheme != "unix" and not is_loopback(url.hostname or "localhost"):
        found.append(f"registry={url.hostname}")
    return found


def _worker_hosts(config: WorkerProgramConfig) -> list[tuple[str, str]]:
    hosts = [("host", config.host)]
    return hosts + ([("metrics_host", config.metrics_host)] if config.metrics_port is not None else [])


def _router_hosts(config: RouterConfig) -> list[tuple[str, str]]:
    hosts = [("host", config.host), ("internal_host", config.internal_host)]
    return hosts + ([("metrics_host", config.metrics_host)] if config.metrics_port is not None else [])
