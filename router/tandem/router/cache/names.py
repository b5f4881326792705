"""Names of the blocks of prompts, as the workers name them: one keyer per tenant and form of KV. Zero I/O."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

from tandem.core.ids import Tenant
from tandem.core.kv_events import BlockKey
from tandem.prefix_cache.config import PrefixCacheProgram
from tandem.prefix_cache.keys import PrefixKeyer, PrefixSpace

_MAX_KEYERS = 4096


class KvForm(NamedTuple):
    """What decides a block's name besides tenant and tokens; workers of one form share names."""

    layout_fingerprint: str
    block_size: int


@dataclass(slots=True, kw_only=True)
class PromptNames:
    """The names of one prompt's full blocks, by form. ``tenant`` is the authenticated one."""

    tenant: Tenant
    token_ids: tuple[int, ...]
    by_form: dict[KvForm, tuple[BlockKey, ...]] = field(default_factory=dict)

    def forget(self) -> None:
        """Give the memory back; they can be made again."""
        self.by_form.clear()


class PromptNamer:
    """Names prompts. Safe from several threads: a keyer made twice is the same keyer."""

    def __init__(self, program: PrefixCacheProgram) -> None:
        """Without the cluster's secret, or with the cache off, no prompt has a name (``is_on`` is False)."""
        secret = program.secret_bytes()
        self.is_on = program.settings.enabled and secret is not None
        self._secret = secret or b""
        self._public = program.settings.public_token_ids()
        self._keyers: OrderedDict[tuple[Tenant, KvForm], PrefixKeyer] = OrderedDict()

    def name(self, names: PromptNames, form: KvForm) -> tuple[BlockKey, ...]:
        """Return the names of a prompt's blocks, from memory where they were made before."""
        if not self.is_on:
            return ()
        keys = names.by_form.get(form)
        if keys is None:
            keys = names.by_form[form] = self._keyer(names.tenant, form).keys(names.token_ids)
        return keys

    def _keyer(self, tenant: Tenant, form: KvForm) -> PrefixKeyer:
        which = (tenant, form)
        keyer = self._keyers.get(which)
        if keyer is None:
            space = PrefixSpace(tenant=tenant, layout_fingerprint=form.layout_fingerprint, block_size=form.block_size)
            keyer = PrefixKeyer(self._secret, space, public=self._public)
            while len(self._keyers) >= _MAX_KEYERS:
                self._keyers.popitem(last=False)
            self._keyers[which] = keyer
        return keyer
