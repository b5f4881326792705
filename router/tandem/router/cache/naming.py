"""Names a request's prompt when it comes in: a long one in a thread, before anybody waits for it."""

import asyncio

from tandem.core.types import GenerationTask
from tandem.router.cache.config import CacheSection
from tandem.router.cache.names import KvForm, PromptNamer, PromptNames
from tandem.router.fleet import Fleet


class PromptNaming:
    """Makes the names for all forms of KV that the fleet has; a form that joins later is named when it is asked for."""

    def __init__(self, namer: PromptNamer, fleet: Fleet, section: CacheSection) -> None:
        self._namer = namer
        self._fleet = fleet
        self._section = section

    async def names_of(self, task: GenerationTask) -> PromptNames | None:
        """Return the names of the prompt's blocks, or None where nothing has a name."""
        if not self._namer.is_on:
            return None
        names = PromptNames(tenant=task.tenant, token_ids=task.prompt_token_ids)
        if len(names.token_ids) > self._section.off_loop_tokens:
            infos = [record.info for record in self._fleet.records()]
            forms = {KvForm(info.layout_fingerprint, info.block_size) for info in infos}
            await asyncio.to_thread(self._name_all, names, forms)
        return names

    def _name_all(self, names: PromptNames, forms: set[KvForm]) -> None:
        for form in forms:
            self._namer.name(names, form)
