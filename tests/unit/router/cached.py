"""A router's view of the workers' caches, for unit tests: made, filled, asked."""

from pydantic import SecretStr

from tandem.core.ids import Tenant
from tandem.core.kv_events import KvUpdate, NumberedEvent, SnapshotPart, Stored, Tier
from tandem.prefix_cache.config import PrefixCacheConfig, PrefixCacheProgram, PublicPrefixSection
from tandem.prefix_cache.keys import PrefixKeyer, PrefixSpace
from tandem.router.actions import WorkerKey
from tandem.router.cache.config import CacheSection
from tandem.router.cache.names import PromptNamer, PromptNames
from tandem.router.cache.view import CacheView

SECRET = bytes(range(32))
BLOCK = 16


def make_program(*, enabled: bool = True, public: tuple[int, ...] = ()) -> PrefixCacheProgram:
    prefixes = (PublicPrefixSection(token_ids=public),) if public else ()
    return PrefixCacheProgram(
        settings=PrefixCacheConfig(enabled=enabled, public_prefixes=prefixes), secret=SecretStr(SECRET.hex())
    )


def make_cache_view(program: PrefixCacheProgram | None = None, **section: float) -> CacheView:
    return CacheView(PromptNamer(program or make_program()), CacheSection.model_validate(section))


def names_of(tokens: int | tuple[int, ...], tenant: str = "local") -> PromptNames:
    token_ids = tuple(range(tokens)) if isinstance(tokens, int) else tokens
    return PromptNames(tenant=Tenant(tenant), token_ids=token_ids)


def keyer(tenant: str = "local", layout: str = "l") -> PrefixKeyer:
    return PrefixKeyer(SECRET, PrefixSpace(tenant=Tenant(tenant), layout_fingerprint=layout, block_size=BLOCK))


def stored(tokens: int, tenant: str = "local", *, tier: Tier = Tier.DEVICE) -> Stored:
    return Stored(keys=keyer(tenant).keys(tuple(range(tokens))), tier=tier)


def hold(view: CacheView, worker: WorkerKey, *held: Stored, now_s: float = 100.0, sequence: int = 1) -> None:
    """The worker's stream begins, with a snapshot of ``held``."""
    view.follow_from(worker)
    part = SnapshotPart(sequence=sequence, held=held, first=True, last=True)
    assert view.on_update(worker, KvUpdate(epoch=worker.epoch, last_sequence=sequence, snapshot=part), now_s)


def tell(view: CacheView, worker: WorkerKey, event: Stored, *, sequence: int, now_s: float = 100.0) -> bool:
    numbered = NumberedEvent(sequence=sequence, event=event)
    return view.on_update(worker, KvUpdate(epoch=worker.epoch, last_sequence=sequence, events=(numbered,)), now_s)
