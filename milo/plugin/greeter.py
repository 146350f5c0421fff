"""The plugin's side of HTTP/2 begins here, while what serves it is still being imported.

Imported after the handshake line, and imports next to nothing itself.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from typing import Final

SETTINGS: Final = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""A SETTINGS frame with none in it, with which a server may begin (RFC 9113, 3.4 and 6.5).

The server that takes the connection sends its own in a further one.
"""


class Greeter:
    """Accepts connections and begins each one in a thread of its own, until it is ended.

    The agent takes a plugin for broken whose first frame does not come within 20 s of the
    connection (grpc-go's least connect timeout), and then does not start at all. On a host that is
    busy at its boot, or an emulated one, the imports alone can take that long.
    """

    def __init__(self, listener: socket.socket) -> None:
        """Begin with ``listener``, which does not block. Raises `OSError` without descriptors."""
        self._listener = listener
        self._wanted, self._end = os.pipe()
        self._greeted: list[socket.socket] = []
        self._thread = threading.Thread(target=self._greet, name="greeter", daemon=True)
        self._thread.start()

    def end(self) -> list[socket.socket]:
        """Accept no more, and return those who have come. Whoever comes now waits in the queue."""
        os.close(self._end)
        self._thread.join()
        os.close(self._wanted)
        return self._greeted

    def _greet(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._wanted, select.POLLIN)
        while all(number != self._wanted for number, _ in poll.poll()):
            try:
                connection, _ = self._listener.accept()
                connection.setblocking(False)
                connection.send(SETTINGS)
            except BlockingIOError:
                continue
            except OSError:
                return  # whatever it is, the server meets it as well, and says so
            self._greeted.append(connection)
