"""Puts a role together: engine, outbox, and the KV service of that side."""

import ssl

from tandem.cluster.programs.config import WorkerProgramConfig
from tandem.core.clock import Clock
from tandem.core.event_log import EventSink
from tandem.core.types import Role, WorkerInfo
from tandem.decode_worker.receiver_events import ReceiverRelay
from tandem.decode_worker.role import DecodeRole
from tandem.engine.engine import Engine
from tandem.kvtransfer.layout import KvLayout
from tandem.kvtransfer.receiver import KvReceiverService
from tandem.kvtransfer.sender import KvSenderService
from tandem.prefill_worker.role import PrefillRole
from tandem.prefill_worker.sender_events import SenderRelay
from tandem.rpc.config import TlsFiles
from tandem.worker_host.host import RoleFactory
from tandem.worker_host.inbox import Inbox
from tandem.worker_host.instruments import WorkerInstruments
from tandem.worker_host.kv_memory import EngineBlockMemory
from tandem.worker_host.outbox import Outbox
from tandem.worker_host.role import RoleService


def role_factory(
    config: WorkerProgramConfig,
    info: WorkerInfo,
    layout: KvLayout,
    instruments: WorkerInstruments,
    clock: Clock,
    *,
    event_log: EventSink | None = None,
) -> RoleFactory:
    """Return what makes a role over an engine; the worker begins with the configured one."""

    def make_prefill(engine: Engine, outbox: Outbox, inbox: Inbox) -> RoleService:
        memory = EngineBlockMemory(engine.table, engine.pool)

        def make_sender(relay: SenderRelay) -> KvSenderService:
            return KvSenderService(
                worker_id=info.worker_id,
                epoch=info.epoch,
                layout=layout,
                source=memory,
                events=relay,
                clock=clock,
                tls=_tls_context(config.tls, ssl.Purpose.SERVER_AUTH),
                event_log=event_log,
                timers=config.lease,
            )

        return PrefillRole(engine=engine, outbox=outbox, inbox=inbox, instruments=instruments, make_sender=make_sender)

    def make_decode(engine: Engine, outbox: Outbox, inbox: Inbox) -> RoleService:
        memory = EngineBlockMemory(engine.table, engine.pool)

        def make_receiver(relay: ReceiverRelay) -> KvReceiverService:
            return KvReceiverService(
                worker_id=info.worker_id,
                epoch=info.epoch,
                layout=layout,
                destination=memory,
                events=relay,
                listen_host=config.host,
                listen_port=config.kv_port,
                advertise_address=config.kv_advertise_address,
                clock=clock,
                tls=_tls_context(config.tls, ssl.Purpose.CLIENT_AUTH),
                transports=config.transports,
                event_log=event_log,
            )

        return DecodeRole(
            engine=engine,
            outbox=outbox,
            inbox=inbox,
            instruments=instruments,
            make_receiver=make_receiver,
            clock=clock,
        )

    def make(role: Role, engine: Engine, outbox: Outbox, inbox: Inbox) -> RoleService:
        return (make_prefill if role is Role.PREFILL else make_decode)(engine, outbox, inbox)

    return make


def _tls_context(files: TlsFiles | None, purpose: ssl.Purpose) -> ssl.SSLContext | None:
    """Return the TLS settings of one side of the KV link: TLS 1.3, both sides show a certificate of our CA."""
    if files is None or files.certificate is None or files.ca is None:
        return None
    context = ssl.create_default_context(purpose, cafile=str(files.ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(str(files.certificate), None if files.key is None else str(files.key))
    context.verify_mode = ssl.CERT_REQUIRED
    return context
