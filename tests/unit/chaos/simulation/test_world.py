"""Time, processes and wires of the simulation: what the runs rest on."""

from collections.abc import Callable

from tandem.chaos.simulation.network import KEEPALIVE_S, Connection, Network, Pipe, Plane
from tandem.chaos.simulation.process import Process
from tandem.chaos.simulation.world import World


def test_calls_run_in_the_order_of_their_times_and_equal_times_in_the_order_they_came() -> None:
    world = World(1)
    ran: list[str] = []

    def note(name: str) -> Callable[[], None]:
        return lambda: ran.append(f"{name}@{world.now_s:g}")

    world.at(2.0, note("c"))
    world.at(1.0, note("a"))
    world.at(1.0, note("b"))
    world.after(5.0, note("later"))
    world.run_until(3.0)
    assert ran == ["a@1", "b@1", "c@2"]
    assert world.now_s == 3.0


def test_a_violation_stops_the_run_where_it_happened() -> None:
    world = World(1)
    world.at(1.0, lambda: world.violation("x", "y"))
    world.at(1.0, lambda: world.violation("never", "reached"))
    world.run_until(9.0)
    assert (world.violations, world.now_s) == (["x: y"], 1.0)


def test_notes_make_the_digest() -> None:
    digests = []
    for what in ("a", "a", "b"):
        world = World(1)
        world.note("p", what)
        digests.append(world.digest)
    assert digests[0] == digests[1] != digests[2]


def test_a_stopped_process_does_later_what_came_meanwhile_and_a_dead_one_nothing() -> None:
    world = World(1)
    process, other = Process(world, "p"), Process(world, "q")
    ran: list[str] = []
    world.at(1.0, process.pause)
    world.at(2.0, lambda: process.call(lambda: ran.append("first")))
    world.at(3.0, lambda: process.call(lambda: ran.append("second")))
    world.at(4.0, process.resume)
    other.after(2.0, lambda: ran.append("never"))
    world.at(1.0, other.kill)
    world.run_until(3.5)
    assert ran == []
    world.run_until(9.0)
    assert ran == ["first", "second"]


def test_a_process_clock_has_its_own_zero_and_rate() -> None:
    world = World(1)
    process = Process(world, "p", offset_s=100.0, rate=2.0)
    due: list[float] = []
    process.after(4.0, lambda: due.append(process.clock.now_s()))
    world.run_until(10.0)
    assert due == [104.0]


def _pipe(world: World) -> tuple[Network, Pipe[int], list[int]]:
    network = Network(world)
    got: list[int] = []
    pipe: Pipe[int] = Pipe(network, "a", Process(world, "b"), Plane.KV)
    pipe.receive = got.append
    return network, pipe, got


def test_a_pipe_keeps_the_order_whatever_the_delays() -> None:
    world = World(3)
    network, pipe, got = _pipe(world)
    path = network.path("a", "b", Plane.KV)
    for number in range(50):
        path.extra_s = world.rng.choice((0.0, 0.5))
        pipe.send(number)
    world.run_until(5.0)
    assert got == list(range(50))


def test_a_cut_path_holds_back_what_is_sent_and_what_is_on_its_way() -> None:
    world = World(3)
    network, pipe, got = _pipe(world)
    network.slow("a", "b", Plane.KV, 1.0)
    pipe.send(1)
    network.cut("a", "b", Plane.KV)
    pipe.send(2)
    world.run_until(5.0)
    assert got == []
    network.heal("a", "b", Plane.KV)
    world.run_until(6.0)
    assert sorted(got) == [1, 2]


def test_what_goes_beside_may_overtake() -> None:
    world = World(3)
    _, pipe, got = _pipe(world)
    pipe.send_beside(1, 1.0)
    pipe.send(2)
    world.run_until(5.0)
    assert got == [2, 1]


def test_a_closed_pipe_delivers_nothing_more() -> None:
    world = World(3)
    _, pipe, got = _pipe(world)
    pipe.send(1)
    pipe.close()
    pipe.send(2)
    world.run_until(5.0)
    assert got == []


def _connection(world: World, *, keepalive: bool) -> tuple[Network, Connection, list[str]]:
    network = Network(world)
    connection = Connection(network, Process(world, "a"), Process(world, "b"), Plane.ATTACH, keepalive=keepalive)
    learnt: list[str] = []
    connection.one.on_closed = lambda: learnt.append("a")
    connection.other.on_closed = lambda: learnt.append("b")
    return network, connection, learnt


def test_a_killed_process_is_missed_at_once_and_one_without_power_by_keepalive() -> None:
    for end, after_s in ((Process.kill, 0.1), (Process.lose_power, KEEPALIVE_S + 6.0)):
        world = World(5)
        _, connection, learnt = _connection(world, keepalive=True)
        world.at(1.0, lambda connection=connection, end=end: end(connection.other.process))  # type: ignore[misc]
        world.run_until(1.0 + after_s)
        assert learnt == ["a"], end


def test_a_farewell_waits_for_the_path() -> None:
    world = World(5)
    network, connection, learnt = _connection(world, keepalive=False)
    network.cut("a", "b", Plane.ATTACH)
    connection.close(connection.one)
    world.run_until(8.0)
    assert learnt == []
    network.heal("a", "b", Plane.ATTACH)
    world.run_until(9.0)
    assert learnt == ["b"]


def test_keepalive_spares_a_short_cut_and_ends_a_long_one_on_both_sides() -> None:
    world = World(5)
    network, _, learnt = _connection(world, keepalive=True)
    network.cut("b", "a", Plane.ATTACH)
    world.at(KEEPALIVE_S - 5.0, lambda: network.heal("b", "a", Plane.ATTACH))
    world.at(40.0, lambda: network.cut("b", "a", Plane.ATTACH))
    world.run_until(40.0 + KEEPALIVE_S - 1.0)
    assert learnt == []
    world.run_until(70.0)
    assert learnt == ["a", "b"]
