"""The cluster over time, on the wire."""

import msgspec

from tandem.admin.v1 import decisions_pb2 as pb
from tandem.core.watching import ClusterSample, ClusterView
from tandem.rpc.codec.cluster import decode_status, encode_status
from tandem.rpc.codec.decisions import from_message


def encode_view(view: ClusterView) -> pb.WatchClusterResponse:
    """Core to protobuf."""
    samples = [pb.ClusterSample(**msgspec.to_builtins(sample)) for sample in view.samples]
    return pb.WatchClusterResponse(status=encode_status(view.status), samples=samples)


def decode_view(message: pb.WatchClusterResponse) -> ClusterView:
    """Protobuf to core."""
    return ClusterView(
        status=decode_status(message.status),
        samples=tuple(from_message(sample, ClusterSample) for sample in message.samples),
    )
