#!/opt/tandem/bin/python
"""Readiness of a router that serves TLS: the kubelet's own gRPC probe speaks plain text only.

usage: grpc_probe.py HOST:PORT SERVICE CA_FILE.  Exit status 0: the service answers SERVING to a caller who verified the
certificate against CA_FILE, or against the system's authorities when there is no such file.
"""

import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def main(target: str, service: str, ca_file: str) -> int:
    """Ask once, within four seconds."""
    ca = Path(ca_file)
    credentials = grpc.ssl_channel_credentials(ca.read_bytes() if ca.exists() else None)
    with grpc.secure_channel(target, credentials) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=4.0, wait_for_ready=True
            )
        except grpc.RpcError as error:
            sys.stderr.write(f"{target} {service}: {error.code().name}\n")
            return 1
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        sys.stderr.write(f"{target} {service}: {name}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
