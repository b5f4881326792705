"""From one configuration to those of the processes."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from tandem.cluster.config.model import ClusterConfig
from tandem.cluster.plan import plan_added_worker, plan_router, plan_workers
from tandem.cluster.programs.config import PlacedWorker, RegistryTarget, RouterProgramConfig, WorkerProgramConfig
from tandem.core.prepared_model import PreparedModel
from tandem.core.types import Role

MODEL = PreparedModel(
    folder=Path("/models/m-1"),
    name="m",
    digest="d",
    source="s",
    dtype="float32",
    architecture="llama",
    vocab_size=1,
    max_context_tokens=1,
    eos_token_ids=(),
    weights_bytes=1,
)
REDIS = RegistryTarget(kind="redis", url="unix:///x/s", namespace="ns")


def config(**sections: object) -> ClusterConfig:
    return ClusterConfig.model_validate({"model": {"source": "x"}, **sections})


def test_one_worker_program_per_replica_prefill_first() -> None:
    workers = plan_workers(config(pools={"prefill": {"replicas": 2}, "decode": {"replicas": 3}}), MODEL, REDIS)
    assert [worker.worker_id for worker in workers] == ["prefill-0", "prefill-1", "decode-0", "decode-1", "decode-2"]
    assert [worker.role for worker in workers] == [Role.PREFILL] * 2 + [Role.DECODE] * 3
    assert {worker.model_folder for worker in workers} == {MODEL.folder}
    assert {worker.registry for worker in workers} == {REDIS}


def test_no_prefill_pool_is_an_aggregated_cluster() -> None:
    workers = plan_workers(config(pools={"prefill": {"replicas": 0}}), MODEL, REDIS)
    assert [worker.worker_id for worker in workers] == ["decode-0"]


def test_workers_get_what_concerns_them() -> None:
    tls = {"certificate": "/c", "key": "/k", "ca": "/a"}
    worker = plan_workers(
        config(
            model={"source": "x", "dtype": "bfloat16"},
            workers={"host": "10.0.0.1", "tls": tls, "insecure": True},
            transfer={"transports": ["tcp"]},
            engine={"block_size": 32},
            observability={"log_level": "debug", "log_style": "json"},
        ),
        MODEL,
        REDIS,
    )[0]
    assert (worker.engine.dtype, worker.engine.block_size) == ("bfloat16", 32)
    assert (worker.host, worker.insecure, worker.transports) == ("10.0.0.1", True, ["tcp"])
    assert worker.tls is not None
    assert worker.tls.ca == Path("/a")
    assert (worker.log_level, worker.log_style) == ("debug", "json")


def test_the_router_serves_the_most_specific_name() -> None:
    named = {"source": "x", "name": "named"}
    assert plan_router(config(), MODEL, REDIS).router.served_model == "m"
    assert plan_router(config(model=named), MODEL, REDIS).router.served_model == "named"
    served = config(model=named, router={"served_model": "served"})
    assert plan_router(served, MODEL, REDIS).router.served_model == "served"


def test_the_router_takes_the_workers_certificates_unless_it_has_its_own() -> None:
    workers = {"tls": {"certificate": "/w", "key": "/k", "ca": "/a"}}
    taken = plan_router(config(workers=workers), MODEL, REDIS).router.internal_tls
    assert taken is not None
    assert taken.certificate == Path("/w")
    own = {"internal_tls": {"certificate": "/r", "key": "/k", "ca": "/a"}}
    kept = plan_router(config(workers=workers, router=own), MODEL, REDIS).router.internal_tls
    assert kept is not None
    assert kept.certificate == Path("/r")


def test_programs_survive_the_trip_as_one_line_of_json() -> None:
    full = config(
        router={
            "keys": [{"id": "a", "tenant": "t", "sha256": "0" * 64}],
            "queue": {"tenant_weights": {"t": 2.0}},
            "placement": {"mode": "split"},
        },
        engine={"kv_memory_bytes": "1MiB"},
    )
    router = plan_router(full, MODEL, REDIS)
    line = router.model_dump_json(by_alias=True)
    assert "\n" not in line
    assert RouterProgramConfig.model_validate_json(line) == router
    for worker in plan_workers(full, MODEL, REDIS):
        assert WorkerProgramConfig.model_validate_json(worker.model_dump_json()) == worker


def test_a_bundle_names_only_what_is_asked_for() -> None:
    program = plan_workers(config(), MODEL, REDIS)[0]
    assert PlacedWorker(program=program, cpus=2).bundle() == {"CPU": 2}
    assert PlacedWorker(program=program, cpus=1, gpus=0.5).bundle() == {"CPU": 1, "GPU": 0.5}


def test_workers_on_nodes_of_their_own_show_metrics_at_one_port() -> None:
    pods = {"kind": "ray", "address": "auto"}
    shown = config(runtime=pods, workers={"metrics_port": 9464})
    assert {worker.metrics_port for worker in plan_workers(shown, MODEL, REDIS)} == {9464}
    added = plan_added_worker(shown, MODEL, REDIS, worker_id="decode-7", role=Role.DECODE)
    assert added.metrics_port == 9464
    counted = config(workers={"metrics_base_port": 9500})
    assert plan_added_worker(counted, MODEL, REDIS, worker_id="decode-7", role=Role.DECODE).metrics_port is None


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"workers": {"metrics_port": 9464}}, "use metrics_base_port"),
        ({"workers": {"metrics_port": 9464}, "runtime": {"kind": "ray"}}, "use metrics_base_port"),
        ({"workers": {"metrics_port": 9464, "metrics_base_port": 9500}}, "exclude each other"),
    ],
    ids=str,
)
def test_one_port_for_workers_of_one_host_is_refused(sections: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**sections)


def test_each_worker_has_a_metrics_port_of_its_own_or_none_has() -> None:
    pools = {"prefill": {"replicas": 2}, "decode": {"replicas": 3}}
    assert {w.metrics_port for w in plan_workers(config(pools=pools), MODEL, REDIS)} == {None}
    shown = config(pools=pools, workers={"metrics_base_port": 9500, "metrics_host": "0.0.0.0"})
    workers = plan_workers(shown, MODEL, REDIS)
    assert [worker.metrics_port for worker in workers] == [9500, 9501, 9502, 9503, 9504]
    assert {worker.metrics_host for worker in workers} == {"0.0.0.0"}


def test_the_last_of_the_most_workers_still_has_a_port() -> None:
    most = {"prefill": {"replicas": 4096}, "decode": {"replicas": 4096}}
    last = plan_workers(config(pools=most, workers={"metrics_base_port": 57343}), MODEL, REDIS)[-1]
    assert WorkerProgramConfig.model_validate_json(last.model_dump_json()).metrics_port == 65534


def test_the_event_log_s_folder_reaches_every_process() -> None:
    whole = config(observability={"event_log": "/events"})
    assert {worker.event_log for worker in plan_workers(whole, MODEL, REDIS)} == {Path("/events")}
    assert plan_router(whole, MODEL, REDIS).router.event_log == Path("/events")
    own = config(observability={"event_log": "/events"}, router={"event_log": "/elsewhere"})
    assert plan_router(own, MODEL, REDIS).router.event_log == Path("/elsewhere")
    assert plan_router(config(), MODEL, REDIS).router.event_log is None
    assert {worker.event_log for worker in plan_workers(config(), MODEL, REDIS)} == {None}
