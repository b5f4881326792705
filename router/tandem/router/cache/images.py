"""Images of a router's index in Redis: it starts from them, and may be the one that writes them. Composition only."""

from collections.abc import Callable

from tandem.core.clock import Clock
from tandem.core.types import WorkerInfo
from tandem.prefix_cache.remote.images import RemoteImages
from tandem.prefix_cache.remote.writer_lease import WriterLease
from tandem.router.actions import WorkerKey
from tandem.router.cache.config import CacheSection
from tandem.router.cache.image_counts import ImageCounts
from tandem.router.cache.image_loader import ImageLoader
from tandem.router.cache.image_shelf import ImageShelf
from tandem.router.cache.image_writer import ImageWriter
from tandem.router.cache.view import CacheView

_LEASE_INTERVALS = 3.0  # it is renewed every one or two


class IndexImages:
    """``loader`` is asked before a worker is followed; ``writer`` runs beside the rest. ``remote`` stays open."""

    def __init__(
        self,
        remote: RemoteImages,
        view: CacheView,
        section: CacheSection,
        *,
        info_of: Callable[[WorkerKey], WorkerInfo | None],
        clock: Clock,
    ) -> None:
        image = section.image
        self.counts = ImageCounts()
        self.loader = ImageLoader(
            remote, view, counts=self.counts, max_blocks=section.max_index_blocks, max_wait_s=image.max_wait_s
        )
        lease = WriterLease(remote.gate, name=f"{remote.prefix}writer", life_s=_LEASE_INTERVALS * image.interval_s)
        shelf = ImageShelf(remote, max_bytes=image.memory_bytes, ttl_s=image.ttl_s, clock=clock)
        self.writer = ImageWriter(view, shelf, lease, section=image, info_of=info_of, counts=self.counts)
