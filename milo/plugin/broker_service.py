"""plugin.GRPCBroker: offers of further connections, of which Nomad's drivers make none."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator

from milo.wire import plugin


class BrokerService(plugin.GrpcBrokerBase):
    """go-plugin's host opens the stream at once and keeps it open."""

    async def start_stream(
        self, offers: AsyncIterable[plugin.ConnInfo]
    ) -> AsyncIterator[plugin.ConnInfo]:
        """Offer nothing and take nothing, for as long as the host likes."""
        async for offer in offers:
            if offer.knock.knock:
                yield plugin.ConnInfo(
                    service_id=offer.service_id,
                    knock=plugin.ConnInfoKnock(error="Milo brokers no connections"),
                )
