"""hashicorp.nomad.plugins.base.proto.BasePlugin: the plugin's name, versions and configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import milo
from milo.core.config.plugin_options import PluginOptions, parse_plugin_options
from milo.plugin import convert
from milo.plugin.schema import spec_of
from milo.wire.hashicorp.nomad.plugins.base import proto as base

if TYPE_CHECKING:
    from milo.host.registry import Registry
    from milo.plugin.metrics.exporter import Exporter

# The only version of the plugin API that Nomad has ever had (plugins/drivers/versions.go).
API_VERSION = "v0.1.0"


class BaseService(base.BasePluginBase):
    """Nomad asks these before anything else; SetConfig is left out when it reattaches."""

    def __init__(self, registry: Registry, exporter: Exporter) -> None:
        self._registry = registry
        self._exporter = exporter
        self.configured = False
        """Whether an agent has given its options, and so may have started tasks."""

    async def plugin_info(self, request: base.PluginInfoRequest) -> base.PluginInfoResponse:
        """Name, type and versions."""
        return base.PluginInfoResponse(
            type=base.PluginType.from_string("DRIVER"),
            plugin_api_versions=[API_VERSION],
            plugin_version=milo.__version__,
            name="milo",
        )

    async def config_schema(self, request: base.ConfigSchemaRequest) -> base.ConfigSchemaResponse:
        """What the agent's plugin block may hold."""
        return base.ConfigSchemaResponse(spec=spec_of(PluginOptions))

    async def set_config(self, request: base.SetConfigRequest) -> base.SetConfigResponse:
        """Take the plugin block over. A value that is not valid changes nothing."""
        block = convert.decode_config(request.msgpack_config, "plugin config")
        options = parse_plugin_options(block)
        await self._registry.configure(options, convert.client_mhz(request.nomad_config))
        self._exporter.configure(options.metrics)
        self.configured = True
        return base.SetConfigResponse()
