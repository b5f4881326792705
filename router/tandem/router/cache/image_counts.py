"""What happened to images of the index, in numbers. Zero I/O."""

from collections import Counter
from dataclasses import dataclass, field

from tandem.prefix_cache.image import ImageRefusal
from tandem.rpc.telemetry import ImageReading


@dataclass(slots=True)
class ImageCounts:
    """Totals of one router since its start."""

    num_written: int = 0
    num_failed: int = 0  # images that were begun and not written
    num_read: int = 0
    num_blocks_warmed: int = 0
    num_missed: int = 0  # workers that had to be asked for everything: no image, or Redis did not give it in time
    refused: Counter[ImageRefusal] = field(default_factory=Counter)

    def reading(self) -> ImageReading:
        """What metrics show."""
        refused = {reason.value: self.refused[reason] for reason in ImageRefusal}
        return ImageReading(
            num_written=self.num_written,
            num_failed=self.num_failed,
            num_read=self.num_read,
            num_missed=self.num_missed,
            num_blocks_warmed=self.num_blocks_warmed,
            refused=refused,
        )
