"""Real clusters of router, prefill and decode processes with the tagged engine, for everything that breaks them.

::

    from tandem.chaos.cluster import ChaosCluster, ChaosOptions, WorkerChaos, random_specs, summarise

    options = ChaosOptions(
        num_prefill=1, num_decode=2,
        engine={"num_blocks": 96, "block_size": 16},           # `EngineConfig` fields, for every worker
        router={"timers": {"dead_after_s": 4.0}},              # `RouterConfig` fields
        cost=TaggedCost(prefill_token_s=0.001, step_s=0.02),   # phases long enough to be hit
        workers={"decode-0": WorkerChaos(                      # one worker of its own kind
            variables={"TANDEM_TEST_FAILPOINTS": "..."},       # environment of that process
            port=p1, advertise_address="127.0.0.1:p2",         # a proxy on the Attach link: it forwards p2 to p1
            kv_port=p3, kv_advertise_address="127.0.0.1:p4",   # and on the KV link (transports must be ["tcp"])
        )},
    )
    async with ChaosCluster(options) as cluster:               # nothing is left afterwards, whatever happens inside
        cluster.router_pid, cluster.pid("decode-1")            # to kill, stop, continue
        before = await cluster.worker("decode-1")              # epoch, address, load, state as the router sees it
        os.kill(cluster.pid("decode-1"), signal.SIGKILL)
        after = await cluster.restarted("decode-1", since=before.info.epoch, timeout_s=20)

        specs = random_specs(200, seed=7, cancel_share=0.2)
        records = await cluster.run_requests(specs, concurrency=32)
        summarise(records)                                     # counts: ok, wrong, hangs, by outcome and reason
        cluster.verified(), cluster.mismatches()               # what the engines checked; `tag_mismatches` must be 0
        cluster.event_logs()                                   # one JSONL file per process life
        assert not await check_leaks(cluster)                  # tandem.chaos.leaks

A record says what came of a request (`RequestRecord`): its outcome and reason, its tokens *compared with the oracle's*
(a request that failed or was cancelled must have emitted a prefix of the right answer), attempts, times on
CLOCK_MONOTONIC, and whether it ended by its deadline plus one second; one that did not is a hang. ``cluster.client()``
is the product's SDK for anything else. Ports are fixed for the life of the cluster, so `restart_router` brings the
router back where it was.
"""

from tandem.chaos.cluster.cluster import ChaosCluster
from tandem.chaos.cluster.options import ChaosOptions, WorkerChaos
from tandem.chaos.cluster.records import Ending, RequestRecord, Summary, Verdict, summarise
from tandem.chaos.cluster.specs import RequestSpec, random_specs

__all__ = [
    "ChaosCluster",
    "ChaosOptions",
    "Ending",
    "RequestRecord",
    "RequestSpec",
    "Summary",
    "Verdict",
    "WorkerChaos",
    "random_specs",
    "summarise",
]
