"""Cache events between threads: order, listeners, no lost wake-up."""

import threading

from tandem.core.ids import Epoch
from tandem.prefix_cache.event_log import KvEventLog
from tandem.prefix_cache.events import Removed, Stored, Tier
from tandem.prefix_cache.keys import BlockKey


def stored(number: int) -> Stored:
    return Stored(keys=(BlockKey(number.to_bytes(32, "big")),), tier=Tier.DEVICE)


def test_listeners_are_called_after_the_event_until_they_end() -> None:
    log = KvEventLog(Epoch(5))
    heard: list[int] = []
    end = log.listen(lambda: heard.append(log.last_sequence))
    log.append(stored(1))
    log.append(Removed(keys=stored(1).keys, tier=Tier.DEVICE))
    end()
    end()
    log.append(stored(2))
    assert heard == [1, 2]
    assert log.num_held(Tier.DEVICE) == 1
    assert log.epoch == 5


def test_a_reader_that_is_woken_misses_nothing() -> None:
    log, woken, seen = KvEventLog(Epoch(5), capacity=64), threading.Event(), []
    log.listen(woken.set)

    def read() -> None:
        expected = 1
        while expected <= 500:
            assert woken.wait(10.0)
            woken.clear()
            replay = log.since(log.epoch, expected)
            if replay.snapshot is not None:
                expected = replay.snapshot.sequence + 1
            for numbered in replay.events:
                seen.append(numbered.sequence)
                assert numbered.sequence == expected
                expected += 1

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(500):
        log.append(stored(number))
    reader.join(20.0)
    assert not reader.is_alive()
    assert log.num_held(Tier.DEVICE) == 500
