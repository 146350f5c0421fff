"""What Milo uses of other packages' insides is there, or it is said where to look.

A new release of these packages may change a name that it never promised. Then read what has taken
its place, mend the module that is named here, and only then raise the bound in pyproject.toml.
"""

from __future__ import annotations

import asyncio
import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from grpclib.const import Cardinality, Handler
from grpclib.server import Stream

from milo.plugin.event_loop import trio_asyncio
from milo.plugin.http2 import UnlimitedServer

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


class Wire(asyncio.Transport):
    """A transport that goes nowhere."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


def missing(package: str, module: str, where: dict[str, tuple[object, str]]) -> str:
    """Return what to do about the names that are not there."""
    gone = [
        f"{what}.{name}"
        for what, (owner, names) in where.items()
        for name in names.split()
        if not hasattr(owner, name)
    ]
    return f"{package} {version(package)} has no {', '.join(gone)}: see {module}" if gone else ""


async def insides() -> dict[str, dict[str, tuple[object, str]]]:
    """Return, for each package, objects of it and the names that Milo uses of them."""
    server = UnlimitedServer([])
    protocol = server._protocol_factory()
    protocol.connection_made(Wire())
    connection = protocol.connection
    stream = connection.create_stream(stream_id=1)
    call: Stream[Any, Any] = Stream(
        stream,
        "name",
        Cardinality.UNARY_STREAM,
        bytes,
        bytes,
        codec=None,  # type: ignore[arg-type]
        status_details_codec=None,
        dispatch=None,  # type: ignore[arg-type]
    )
    h2 = connection._connection
    found: dict[str, dict[str, tuple[object, str]]] = {
        "grpclib": {
            "Server": (server, "_protocol_factory"),
            "H2Protocol": (protocol, "connection handler config h2_config"),
            "Connection": (connection, "_connection write_ready flush is_closing"),
            "protocol.Stream": (stream, "id connection closable send_data"),
            "server.Stream": (
                call,
                "_stream send_initial_metadata _send_initial_metadata_done _send_message_done"
                " _send_trailing_metadata_done",
            ),
            "Handler": (Handler, "_replace"),
            "Configuration": (protocol.config, "_keepalive_time"),
        },
        "h2": {
            "H2Connection": (
                h2,
                "update_settings send_headers send_data local_flow_control_window"
                " max_outbound_frame_size _closed_streams _open_streams streams",
            ),
        },
        "trio-asyncio": {
            "trio_asyncio": (trio_asyncio, "aio_as_trio trio_as_aio open_loop current_loop"),
            "current_loop": (trio_asyncio.current_loop, "get"),
        },
    }
    protocol.connection_lost(None)
    return found


@pytest.mark.parametrize(
    ("package", "module"),
    [
        ("grpclib", "milo/plugin/http2.py and milo/plugin/rpc.py"),
        ("h2", "milo/plugin/http2.py"),
        ("trio-asyncio", "milo/plugin/http2.py, rpc.py and server.py"),
    ],
)
def test_what_is_used_of_a_packages_insides_is_there(package: str, module: str) -> None:
    """Each name that no release has promised is still the one that Milo uses."""
    assert not missing(package, module, asyncio.run(insides())[package])


@pytest.mark.parametrize("package", ["betterproto", "grpclib", "h2", "trio-asyncio"])
def test_a_package_of_private_names_has_an_upper_bound(package: str) -> None:
    """A release that nobody has tried Milo with is not installed."""
    wanted = tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]
    [line] = [line for line in wanted if re.match(rf"{package}\b(?!-)", line)]
    assert "<" in line or "==" in line
