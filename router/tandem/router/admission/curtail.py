"""What a brown-out takes away from a request that is taken. Pure."""

from dataclasses import replace

from tandem.core.types import GenerationTask, PriorityClass
from tandem.router.admission.pressure import BrownOut


def curtail(task: GenerationTask, step: BrownOut, *, batch_max_tokens: int) -> GenerationTask:
    """Return the task as it is served at ``step``: a capped batch answer ends with ``length``, a pin is not kept."""
    if task.priority is PriorityClass.BATCH and step >= BrownOut.CAP_BATCH and task.stop.max_tokens > batch_max_tokens:
        task = replace(task, stop=replace(task.stop, max_tokens=batch_max_tokens))
    if task.pin is not None and step >= BrownOut.NO_PINS:
        task = replace(task, pin=None)
    return task
