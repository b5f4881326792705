"""What a router knows of the workers' prefix caches: the index that their events fill, and what is expected. Zero I/O.

A hint in every part: what is wrong here costs a request time and never its answer.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from tandem.core.cache import IndexStatus
from tandem.core.kv_events import KvUpdate, SnapshotPart, Tier, WatchFrom
from tandem.prefix_cache.feed import KvEventFeed
from tandem.prefix_cache.index import CacheHolder, HeldNames, LifeMark, PrefixIndex, PrefixMatch
from tandem.prefix_cache.tiers.costs import FIRST_COSTS
from tandem.prefix_cache.tiers.promotion import FetchCost
from tandem.router.actions import WorkerKey
from tandem.router.cache.config import CacheSection
from tandem.router.cache.expected import ExpectedPrefixes
from tandem.router.cache.names import KvForm, PromptNamer, PromptNames
from tandem.router.placement import CachedPrefix, WorkerView
from tandem.rpc.telemetry import CacheReading


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowState:
    """How well this router follows one worker's cache."""

    stale_s: float | None
    num_behind: int
    num_gaps: int
    num_snapshots: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowPosition:
    """What the index knows of a worker: everything up to event ``sequence``.

    ``mark`` is another one after it was begun anew; none: it holds nothing.
    """

    worker: WorkerKey
    sequence: int
    mark: LifeMark | None


class CacheView:
    """Which worker holds how much of a prompt. Loop thread."""

    def __init__(self, namer: PromptNamer, section: CacheSection) -> None:
        self.namer = namer
        self._section = section
        self._index = PrefixIndex(max_blocks=section.max_index_blocks)
        self._expected = ExpectedPrefixes(max_blocks=section.max_expected_blocks, expect_s=section.expect_s)
        self._feeds: dict[WorkerKey, KvEventFeed] = {}
        self._costs: dict[WorkerKey, dict[Tier, FetchCost]] = {}  # what each told of its slower tiers

    # --- what workers tell -------------------------------------------------------------------------------------------

    def follow_from(self, worker: WorkerKey) -> WatchFrom:
        """Return what to ask ``worker`` for when its stream is opened (again)."""
        feed = self._feeds.get(worker)
        if feed is None:
            feed = self._feeds[worker] = KvEventFeed(worker.worker_id, self._index)
        return feed.resume()

    def on_update(self, worker: WorkerKey, update: KvUpdate, now_s: float) -> bool:
        """Take one message of that life of a worker. False: ask again with ``follow_from``."""
        feed = self._feeds.get(worker)
        if feed is None or update.epoch != worker.epoch:
            return False
        self._costs[worker] = {
            cost.tier: FetchCost(fixed_s=cost.fixed_s, s_per_byte=cost.s_per_byte) for cost in update.costs
        }
        return feed.on_update(update, now_s)

    def on_image(self, worker: WorkerKey, part: SnapshotPart) -> bool:
        """Take a part of an image of that life of a worker. False: it is not wanted (any more)."""
        if part.first:
            self.follow_from(worker)
        feed = self._feeds.get(worker)
        return feed is not None and feed.on_image(worker.epoch, part)

    def drop_image(self, worker: WorkerKey) -> None:
        """An image of which a part was taken does not go on."""
        feed = self._feeds.get(worker)
        if feed is not None:
            feed.drop_image()

    def on_gone(self, worker: WorkerKey) -> None:
        """That life is over: nothing can be had of it any more."""
        feed = self._feeds.pop(worker, None)
        self._costs.pop(worker, None)
        if feed is not None:
            feed.on_worker_gone()
        self._expected.forget(worker)

    def sweep(self, now_s: float) -> None:
        """Give memory back, a slice at a time; call it with the clock's tick."""
        self._index.sweep()
        self._expected.sweep(now_s)

    # --- what images are made of -------------------------------------------------------------------------------------

    def positions(self) -> list[FollowPosition]:
        """Up to which event each worker is known; those that are being told anew are left out."""
        return [
            FollowPosition(worker=worker, sequence=feed.position, mark=self._index.mark(_holder(worker)))
            for worker, feed in self._feeds.items()
            if feed.position is not None and feed.last_event_s is not None
        ]

    def followed(self) -> Collection[WorkerKey]:
        """The lives of workers that are followed, or soon will be."""
        return self._feeds.keys()

    def is_same(self, position: FollowPosition) -> bool:
        """Whether that worker has not been begun anew since."""
        return position.worker in self._feeds and self._index.mark(_holder(position.worker)) == position.mark

    def walk(self, workers: Collection[WorkerKey]) -> Iterator[list[HeldNames]]:
        """Yield the names that ``workers`` hold, a slice at a time; see `PrefixIndex.walk`."""
        return self._index.walk([_holder(worker) for worker in workers])

    # --- what placement asks -----------------------------------------------------------------------------------------

    def cached(self, names: PromptNames, views: Iterable[WorkerView], now_s: float) -> Mapping[WorkerKey, CachedPrefix]:
        """Return what each worker holds of a prompt, or will soon; who holds nothing is left out."""
        if not self.namer.is_on:
            return {}
        found: dict[WorkerKey, CachedPrefix] = {}
        matches: dict[KvForm, dict[CacheHolder, PrefixMatch]] = {}
        for view in views:
            form = _form(view)
            keys = self.namer.name(names, form)
            if not keys:
                continue
            if form not in matches:
                matches[form] = self._index.match(keys)
            prefix = self._held(matches[form].get(_holder(view.key)), view, now_s)
            num_soon = self._expected.num_expected(view.key, keys, now_s) * view.block_size
            if num_soon and (prefix is None or num_soon > prefix.num_tokens):
                prefix = CachedPrefix(num_tokens=num_soon)
            if prefix is not None:
                found[view.key] = prefix
        return found

    def expect(self, names: PromptNames, views: Iterable[WorkerView], now_s: float) -> None:
        """A request was sent to these workers: soon they hold its prompt. Its names are not needed meanwhile."""
        if self.namer.is_on and self._section.max_expected_blocks:
            for view in views:
                self._expected.expect(view.key, self.namer.name(names, _form(view)), now_s)
        names.forget()

    def forget_expected(self) -> None:
        """Expect nothing any more: what is on its way was flushed."""
        self._expected.clear()

    # --- what operators ask ------------------------------------------------------------------------------------------

    def index_status(self) -> IndexStatus:
        """The index in numbers."""
        return IndexStatus(
            num_blocks=len(self._index),
            max_blocks=self._section.max_index_blocks,
            num_overflowed=self._index.num_overflowed,
            num_expected=len(self._expected),
        )

    def follow_state(self, worker: WorkerKey, now_s: float) -> FollowState | None:
        """How well ``worker`` is followed; None for one that never was."""
        feed = self._feeds.get(worker)
        if feed is None:
            return None
        return FollowState(
            stale_s=feed.staleness_s(now_s),
            num_behind=feed.num_behind,
            num_gaps=feed.num_gaps,
            num_snapshots=feed.num_snapshots,
        )

    def reading(self, now_s: float) -> CacheReading:
        """What metrics show."""
        feeds = self._feeds
        ages_s = {worker.worker_id: feed.staleness_s(now_s) for worker, feed in feeds.items()}
        return CacheReading(
            num_blocks=len(self._index),
            num_gaps=sum(feed.num_gaps for feed in feeds.values()),
            num_snapshots=sum(feed.num_snapshots for feed in feeds.values()),
            stale_s={worker: age_s for worker, age_s in ages_s.items() if age_s is not None},
        )

    # --- inside ------------------------------------------------------------------------------------------------------

    def _held(self, match: PrefixMatch | None, view: WorkerView, now_s: float) -> CachedPrefix | None:
        feed = self._feeds.get(view.key)
        if match is None or feed is None:
            return None
        stale_s = feed.staleness_s(now_s)
        if stale_s is None or stale_s > self._section.stale_after_s:
            return None
        num_slow = match.num_blocks - match.num_device_blocks
        blocks = {Tier.HOST: num_slow - match.num_remote_blocks, Tier.REMOTE: match.num_remote_blocks}
        costs = self._costs.get(view.key, {})
        fetch_s = 0.0
        for tier, num_blocks in blocks.items():
            if num_blocks:
                cost = costs.get(tier, FIRST_COSTS[tier])
                fetch_s += cost.fixed_s + cost.s_per_byte * num_blocks * view.block_size * view.kv_bytes_per_token
        return CachedPrefix(
            num_tokens=match.num_blocks * view.block_size,
            fetch_s=fetch_s,
            num_slow_tokens=num_slow * view.block_size,
        )


def _form(view: WorkerView) -> KvForm:
    return KvForm(view.layout_fingerprint, view.block_size)


def _holder(worker: WorkerKey) -> CacheHolder:
    return CacheHolder(worker.worker_id, worker.epoch)
