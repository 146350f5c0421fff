"""grpc.health.v1.Health, as go-plugin's ping asks for it.

grpclib has one, which needs Google's protobuf package.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from milo.wire.grpc.health import v1 as health

# Source: go-plugin, grpc_server.go (GRPCServiceName). The empty name is the whole server.
_SERVICES = ("plugin", "")

_Serving = health.HealthCheckResponseServingStatus


class HealthService(health.HealthBase):
    """The process serves as long as it lives; the driver's own health is its fingerprint."""

    async def check(self, request: health.HealthCheckRequest) -> health.HealthCheckResponse:
        """Serving; any other name than go-plugin's is not found."""
        if request.service not in _SERVICES:
            raise GRPCError(Status.NOT_FOUND, f"unknown service {request.service!r}")
        return health.HealthCheckResponse(status=_Serving.from_string("SERVING"))

    async def watch(
        self, request: health.HealthCheckRequest
    ) -> AsyncIterator[health.HealthCheckResponse]:
        """The status now; it does not change later."""
        known = request.service in _SERVICES
        yield health.HealthCheckResponse(
            status=_Serving.from_string("SERVING")
            if known
            else _Serving.from_string("SERVICE_UNKNOWN")
        )
        await trio.sleep_forever()
