"""What a running cluster leaves on disk, and what of it counts."""

import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from tandem.cluster.run_state import RunState, RunStates, is_process, own_start_s
from tandem.core.errors import EnvironmentProblem


def state(name: str = "a", **changes: object) -> RunState:
    facts: dict[str, object] = {
        "name": name,
        "pid": os.getpid(),
        "started_s": own_start_s(),
        "runtime": "local",
        "model": "m",
        "public_address": "127.0.0.1:1",
        "internal_address": "127.0.0.1:2",
        "secured": False,
        "internal_secured": False,
        "log_folder": "/logs",
    }
    return RunState.model_validate(facts | changes)


@pytest.fixture
def states(tmp_path: Path) -> RunStates:
    return RunStates(tmp_path / "run")


def test_written_and_found(states: RunStates, tmp_path: Path) -> None:
    states.write(state())
    assert states.find("a") == state()
    assert states.running() == (state(),)
    assert stat.S_IMODE((tmp_path / "run" / "a.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["a.json"], "no half-written file stays"


def test_a_dead_process_does_not_count(states: RunStates, tmp_path: Path) -> None:
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    states.write(state(pid=int(dead.stdout)))
    assert states.find("a") is None
    assert not (tmp_path / "run" / "a.json").exists()


def test_a_process_id_that_is_used_again_does_not_count(states: RunStates) -> None:
    states.write(state(started_s=own_start_s() - 3600))
    assert states.find("a") is None


@pytest.mark.parametrize("rubbish", [b"", b"{}", b"\xff\xfe", b'{"name": 3}', b"[]"])
def test_rubbish_does_not_count(states: RunStates, tmp_path: Path, rubbish: bytes) -> None:
    states.write(state())
    (tmp_path / "run" / "a.json").write_bytes(rubbish)
    assert states.find("a") is None
    assert states.running() == ()


def test_removed_only_by_its_owner(states: RunStates) -> None:
    states.write(state())
    states.remove("a", pid=os.getpid() + 1)
    assert states.find("a") is not None
    states.remove("a", pid=os.getpid())
    states.remove("a", pid=os.getpid())
    assert states.find("a") is None


def test_pick(states: RunStates) -> None:
    with pytest.raises(EnvironmentProblem, match="no cluster runs here"):
        states.pick(None)
    states.write(state())
    assert states.pick(None).name == "a"
    assert states.pick("a").name == "a"
    with pytest.raises(EnvironmentProblem, match="no cluster named 'b' runs here"):
        states.pick("b")
    states.write(state("b"))
    with pytest.raises(EnvironmentProblem, match="several clusters run here: a, b"):
        states.pick(None)
    assert states.pick("b").name == "b"
    with pytest.raises(EnvironmentProblem):
        states.pick("../a")


def test_a_name_is_held_by_one(states: RunStates) -> None:
    with states.claimed("a"), pytest.raises(EnvironmentProblem, match="'a' runs already"), states.claimed("a"):
        pass
    with states.claimed("a"), states.claimed("b"):
        pass


def test_a_name_given_back_leaves_no_file(states: RunStates, tmp_path: Path) -> None:
    with states.claimed("a"):
        assert (tmp_path / "run" / "a.lock").exists()
    assert list((tmp_path / "run").iterdir()) == []


def test_a_lock_file_that_its_holder_took_away_guards_nothing(
    states: RunStates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened before the holder ended, locked after: somebody else may have made a new file of that name."""
    path, flock = tmp_path / "run" / "a.lock", fcntl.flock
    taken: list[int] = []

    def flock_late(lock: IO[str], how: int) -> None:
        if not taken:
            path.unlink()
        taken.append(lock.fileno())
        flock(lock, how)

    monkeypatch.setattr(fcntl, "flock", flock_late)
    with states.claimed("a"):
        assert path.exists()
        assert len(taken) == 2


def test_a_folder_of_somebody_else_is_refused(
    states: RunStates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.setattr("os.getuid", lambda: 12345)
    with pytest.raises(EnvironmentProblem, match="belongs to somebody else"):
        states.write(state())


def test_a_link_in_place_of_the_folder_is_refused(states: RunStates, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EnvironmentProblem, match="belongs to somebody else"):
        states.write(state())


def test_an_open_folder_is_closed(states: RunStates, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o755)
    states.write(state())
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700


def test_a_folder_that_cant_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblem, match="can't be made"):
        RunStates(tmp_path / "file" / "run").write(state())


def test_is_process() -> None:
    assert is_process(os.getpid(), own_start_s())
    assert not is_process(os.getpid(), own_start_s() + 60)
    assert not is_process(2**22 + 1, 0.0)
