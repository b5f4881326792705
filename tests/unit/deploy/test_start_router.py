"""The main process of the router pod: two programs, one life.  Ray and Tandem are small scripts here."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.deploy.chart import CHART

SCRIPT = CHART / "files" / "start-router.sh"
LIMIT_S = 10.0
# Each writes a line when it starts and when a signal ends it, so that the order can be read.
_PROGRAM = """#!/bin/bash
trap 'echo "{name} stopped" >> "$LOG"; exit 0' TERM
[ "{name}" = python ] || echo "{name} started $*" >> "$LOG"
{body}
for _ in $(seq 500); do sleep 0.02; done
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """A folder with the two programs and the log they write."""

    folder: Path
    started: list[subprocess.Popen[str]]

    def program(self, name: str, body: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(_PROGRAM.format(name=name, body=body), encoding="utf-8")
        path.chmod(0o755)

    def log(self) -> list[str]:
        path = self.folder / "log"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def start(self, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            ["/bin/bash", str(SCRIPT), "chart.yaml"],
            env={
                "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
                "LOG": str(self.folder / "log"),
                "TANDEM_RAY_FOLDER": str(self.folder),
                "TMPDIR": str(self.folder),
                "POD_IP": "10.1.2.3",
                "KUBERAY_GEN_RAY_START_CMD": "ray start --address=head:6379 --block",
                **environment,
            },
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def wait_for(self, condition: Callable[[list[str]], bool]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not condition(self.log()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"log: {self.log()}")
            time.sleep(0.01)


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    (tmp_path / "bin").mkdir()
    stand = Stand(folder=tmp_path, started=[])
    stand.program("ray", 'sleep 0.1; echo head:6379 > "$TANDEM_RAY_FOLDER/ray_current_cluster"')
    stand.program("tandem", ":")
    # Stands for the interpreter that completes the configuration; test_composed_config.py tests what it runs.
    stand.program("python", 'echo "${*:2}" > "$TMPDIR/composed"; exit "${COMPOSE_STATUS:-0}"')
    yield stand
    for process in stand.started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(LIMIT_S)
        if process.stderr is not None:
            process.stderr.close()


def _said(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    return process.stderr.read()


def test_script_is_well_formed() -> None:
    subprocess.run(["/bin/bash", "-n", str(SCRIPT)], check=True, timeout=LIMIT_S)


def test_tandem_starts_after_ray_has_joined(stand: Stand) -> None:
    stand.start()
    stand.wait_for(lambda log: len(log) == 2)
    assert stand.log() == [
        'ray started start --address=head:6379 --block --resources={"tandem_router": 1}',
        f"tandem started up -f {stand.folder / 'cluster.yaml'}",
    ]


def test_configuration_is_completed_first(stand: Stand) -> None:
    stand.start()
    stand.wait_for(lambda log: len(log) == 2)
    assert (stand.folder / "composed").read_text(encoding="utf-8") == (
        f"chart.yaml {stand.folder / 'cluster.yaml'} 10.1.2.3 /etc/tandem\n"
    )


def test_configuration_that_cannot_be_completed_starts_nothing(stand: Stand) -> None:
    process = stand.start(COMPOSE_STATUS="1")
    assert process.wait(LIMIT_S) == 1
    assert stand.log() == []


def test_address_of_an_earlier_container_is_not_taken_for_a_joined_cluster(stand: Stand) -> None:
    (stand.folder / "ray_current_cluster").write_text("old:6379", encoding="utf-8")
    stand.program("ray", ":")
    stand.start()
    stand.wait_for(lambda log: len(log) == 1)
    time.sleep(0.5)
    assert len(stand.log()) == 1


def test_termination_stops_tandem_before_ray(stand: Stand) -> None:
    process = stand.start()
    stand.wait_for(lambda log: len(log) == 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT_S) == 0
    assert stand.log()[2:] == ["tandem stopped", "ray stopped"]


def test_termination_while_ray_joins_stops_ray(stand: Stand) -> None:
    stand.program("ray", ":")
    process = stand.start()
    stand.wait_for(lambda log: len(log) == 1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT_S) == 0
    assert stand.log()[1:] == ["ray stopped"]


def test_end_of_tandem_ends_the_container_with_its_status(stand: Stand) -> None:
    stand.program("tandem", "exit 7")
    process = stand.start()
    assert process.wait(LIMIT_S) == 7
    assert stand.log()[-1] == "ray stopped"


def test_end_of_ray_ends_the_container_as_a_failure(stand: Stand) -> None:
    stand.program("ray", 'echo head > "$TANDEM_RAY_FOLDER/ray_current_cluster"; sleep 0.5; exit 0')
    process = stand.start()
    assert process.wait(LIMIT_S) == 1
    assert stand.log()[-1] == "tandem stopped"
    assert "ray ended; stopping tandem" in _said(process)


def test_ray_that_never_joins_is_given_up(stand: Stand) -> None:
    stand.program("ray", ":")
    process = stand.start(TANDEM_RAY_JOIN_LIMIT_S="1")
    assert process.wait(LIMIT_S) == 1
    assert "has not joined the cluster within 1 s" in _said(process)
    assert stand.log()[-1] == "ray stopped"


def test_ray_that_ends_before_joining_is_named(stand: Stand) -> None:
    stand.program("ray", "exit 3")
    process = stand.start()
    assert process.wait(LIMIT_S) == 1
    assert "ended before it had joined" in _said(process)


def test_missing_command_names_the_annotation(stand: Stand) -> None:
    process = stand.start(KUBERAY_GEN_RAY_START_CMD="")
    assert process.wait(LIMIT_S) == 1
    assert "ray.io/overwrite-container-cmd" in _said(process)
