"""Nothing leaks: checks L1 to L7 over a `ChaosCluster`, to be run after every fault.

::

    problems = await check_leaks(cluster)                     # L1 to L6; waits for them, two leases at most
    problems += check_usage(cluster.event_logs(), records)    # L7, from the event log

L1 every KV block of every worker is free · L2 no request is open at the router, no attempt, hand-over or block
reservation at a worker · L3 queues and in-flight counters are at 0 · L4 descriptors, threads and tasks are where the
baseline had them, plus two · L5 nothing of ours is left in /dev/shm · L6 Redis holds registrations and what expires ·
L7 every request was booked exactly once, with the tokens that it got.

`tandem.chaos.leaks.freeing` tells how long after its cancel a request still held a block anywhere.

An empty list means that nothing leaks; every entry begins with the number of its check.
"""

from tandem.chaos.leaks.check import SETTLE_S, check_leaks, observe
from tandem.chaos.leaks.rules import Observation, problems_of
from tandem.chaos.leaks.usage import check_usage

__all__ = ["SETTLE_S", "Observation", "check_leaks", "check_usage", "observe", "problems_of"]
