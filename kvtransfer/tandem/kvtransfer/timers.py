"""The timers of a prefill worker's leases as a value, for whoever wants others than the design's. Zero I/O."""

from pydantic import Field

from tandem.core.config.model import ConfigModel
from tandem.kvtransfer.timing import LEASE_RENEWAL_S, LEASE_S, REAPER_PERIOD_S


class LeaseTimers(ConfigModel):
    """How long sealed blocks are held for a receiver that says nothing. They bound waste; no safety hangs on them."""

    lease_s: float = Field(default=LEASE_S, gt=0.0, le=3600.0)
    """From the seal on."""
    renewal_s: float = Field(default=LEASE_RENEWAL_S, gt=0.0, le=3600.0)
    """From each beat on in which the receiver still wants them."""
    scan_period_s: float = Field(default=REAPER_PERIOD_S, gt=0.0, le=60.0)
    """Between two looks at all leases."""
