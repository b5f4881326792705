"""Makes sure that the model is there as a prepared folder: looked up at once, or converted by a child with progress."""

from pathlib import Path

from tandem.cluster.config.model import ModelSection
from tandem.cluster.processes.child import ChildSpec
from tandem.cluster.processes.service import Service
from tandem.cluster.programs.config import PrepareProgramConfig
from tandem.cluster.progress import Progress
from tandem.core.environment import child_environment
from tandem.core.prepared_model import PreparedModel, read_prepared_model
from tandem.engine.loading.prepare import find_prepared

_MODULE = "tandem.cluster.programs.prepare_process"
_LIMIT_S = 6 * 3600.0  # a large model over a slow line; Ctrl-C ends it at any time


async def prepare(
    section: ModelSection,
    *,
    cache_folder: Path,
    log_folder: Path,
    progress: Progress,
    num_threads: int,
    hub_offline: bool = False,
) -> PreparedModel:
    """Return the prepared model. Raises ModelError with a remedy when it can't be had."""
    phase = progress.begin("model")
    found = find_prepared(section.source, cache_folder=cache_folder, dtype=section.dtype, name=section.name)
    if found is not None:
        phase.done(f"{found.name}, prepared before")
        return found
    config = PrepareProgramConfig(
        source=section.source, name=section.name, dtype=section.dtype, cache_folder=cache_folder
    )
    spec = ChildSpec(
        name="the model",
        module=_MODULE,
        config_json=config.model_dump_json(),
        log_file=log_folder / "model.log",
        environment=child_environment(num_threads=num_threads, offline=hub_offline),
    )
    child = Service(spec, on_event=lambda status: phase.update(str(status.get("detail", ""))))
    try:
        ready = await child.start(_LIMIT_S)
    finally:
        await child.stop(grace_s=0.5)
    model = read_prepared_model(Path(str(ready["folder"])))
    phase.done(f"{model.name}, prepared now and kept in {model.folder}")
    return model
