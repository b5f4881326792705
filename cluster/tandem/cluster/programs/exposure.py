"""Which settings make a process more than a test's on loopback: with any of them, failpoints are refused. Zero I/O."""

from tandem.cluster.programs.config import WorkerProgramConfig
from tandem.router.config import RouterConfig
from tandem.rpc.addresses import is_loopback


def worker_exposure(config: WorkerProgramConfig) -> list[str]:
    """Name what makes this worker reachable from other machines, or trusted by them."""
    found = [f"{name}={host}" for name, host in _worker_hosts(config) if not is_loopback(host)]
    return found + (["tls"] if config.tls is not None else []) + (["insecure"] if config.insecure else [])


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


def _worker_hosts(config: WorkerProgramConfig) -> list[tuple[str, str]]:
    hosts = [("host", config.host)]
    return hosts + ([("metrics_host", config.metrics_host)] if config.metrics_port is not None else [])


def _router_hosts(config: RouterConfig) -> list[tuple[str, str]]:
    hosts = [("host", config.host), ("internal_host", config.internal_host)]
    return hosts + ([("metrics_host", config.metrics_host)] if config.metrics_port is not None else [])
