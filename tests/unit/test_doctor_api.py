"""How `milo doctor` asks an agent: whoever answers at its address, and whatever the answer is."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from milo.cli.doctor import agent_api, host_facts, report
from milo.cli.doctor import agent_facts as facts
from milo.cli.doctor.finding import Verdict
from milo.cli.doctor.trial import Trial
from milo.core.config.plugin_options import PluginOptions
from tests.support.waiting import scaled

HEALTHY = {"Detected": True, "Healthy": True, "HealthDescription": "Healthy"}
SELF = "/v1/agent/self"
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="files of another user are needed")


@contextmanager
def api(answers: dict[str, tuple[int, object]], tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve ``answers`` by path; yields the address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.get(self.path, (404, "no"))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode() if status == 200 else str(body).encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
            server.handle_error = lambda *_: None  # type: ignore[method-assign]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_the_agents_api() -> None:
    """Its configuration, and what its node says of the driver."""
    own = {
        "config": {
            "Version": {"Version": "2.0.5"},
            "PluginDir": "/p",
            "Plugins": [{"Name": "milo"}],
        },
        "stats": {"client": {"node_id": "n1"}},
    }
    node = {"Attributes": {"unique.hostname": os.uname().nodename}, "Drivers": {"milo": HEALTHY}}
    with api({"/v1/agent/self": (200, own), "/v1/node/n1": (200, node)}) as address:
        answer = agent_api.ask_agent(f"{address}/")
    assert (answer.problem, answer.version, answer.driver) == ("", "2.0.5", HEALTHY)
    assert (answer.is_client, answer.here) == (True, True)
    assert answer.config is not None and answer.config.has_block
    node["Attributes"] = {"unique.hostname": "another"}
    with api({"/v1/agent/self": (200, own), "/v1/node/n1": (200, node)}) as address:
        assert agent_api.ask_agent(address).here is False


def test_an_api_that_refuses_or_is_none() -> None:
    """Never an exception: a token that is missing, another server, nobody there."""
    with api({"/v1/agent/self": (403, "Permission denied")}) as address:
        answer = agent_api.ask_agent(address)
        assert (answer.refused, answer.problem) == (True, "Permission denied")
    with api({"/v1/agent/self": (200, ["not Nomad"])}) as address:
        assert "does not answer like a Nomad agent" in agent_api.ask_agent(address).problem
    with api({}) as address:
        assert agent_api.ask_agent(address).refused is False
    assert agent_api.ask_agent(address).problem == "Connection refused"
    assert "only http" in agent_api.ask_agent("unix:///run/nomad.sock").problem


@contextmanager
def listening(answer: bytes, *, pause_s: float = 0.0, repeat: bool = False) -> Iterator[str]:
    """Listen, and send ``answer`` to each client byte by byte, or at once; yields the address."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            with client, contextlib.suppress(OSError):
                client.recv(65536)
                if pause_s:
                    for byte in answer:
                        client.sendall(bytes([byte]))
                        time.sleep(pause_s)
                else:
                    client.sendall(answer)
                    while repeat:
                        client.sendall(b" " * 65536)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(10)


OK = b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [b"H" * 1000, b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200, OK + b"[" * 1000],
    ids=["status", "headers", "body"],
)
def test_a_slow_answer_has_one_deadline(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one for each byte, whichever part of an answer is slow."""
    monkeypatch.setattr(agent_api, "DEADLINE_S", 0.3)
    with listening(answer, pause_s=0.05) as address:
        begin = time.monotonic()
        found = agent_api.ask_agent(address)
        assert time.monotonic() - begin < scaled(15)
    assert found.problem == "it did not answer within 0.3 s"


def test_an_endless_answer_is_cut() -> None:
    """Its size has a bound, and nothing of it is believed."""
    with listening(OK, repeat=True) as address:
        assert agent_api.ask_agent(address).problem == "its answer is longer than 4 MiB"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token would go along to wherever the answer says."""
    monkeypatch.setenv("NOMAD_TOKEN", "secret")
    with closing(socket.create_server(("127.0.0.1", 0))) as trap:
        trap.settimeout(0.2)
        where = f"http://127.0.0.1:{trap.getsockname()[1]}/x"
        answer = f"HTTP/1.1 {status} Moved\r\nLocation: {where}\r\n\r\n".encode()
        with listening(answer) as address:
            problem = agent_api.ask_agent(address).problem
        assert problem == f"it redirects to {where}, which is not followed"
        with pytest.raises(TimeoutError):
            trap.accept()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000 + b"\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
        OK + b"",
        OK + b"\xff\xfe",
        OK + b"{",
        OK + b"9" * 100_000,
        OK + b"[" * 1_000_000,
        OK + b'{"config":' + b"[" * 100 + b"]" * 100 + b"}",
        OK + b'{"a":' * 100_000,
    ],
)
def test_what_is_no_agents_answer(answer: bytes) -> None:
    """A reason, and no exception."""
    with listening(answer) as address:
        assert "not answer like a Nomad agent" in agent_api.ask_agent(address).problem


ODD = [None, True, 7, -1e300, "", "text", "\0", "\ud800", "/x\0y", [], [[1]], {}, {"": None}]


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_no_value_has_its_type_by_itself(odd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each value of an agent's answers may be anything."""
    monkeypatch.setattr(facts, "USUAL_CONFIG", "/no/such/directory")
    monkeypatch.setattr(report, "check_host", lambda _: [])

    def examine(address: str) -> None:
        assert report.examine(configs=(), address=address, service="none")

    shapes: list[Any] = [
        *({key: odd} for key in ("config", "stats")),
        *({"config": {key: odd}} for key in ("Version", "PluginDir", "DataDir", "Plugins")),
        *({"config": {key: odd}} for key in ("Client",)),
        {"config": {"Version": {"Version": odd}, "Client": {"Enabled": odd}}},
        {"config": {"Plugins": [odd, {"Name": odd}, {"Name": "milo", "Config": odd}]}},
        {"stats": {"client": odd}},
        {"stats": {"client": {"node_id": odd}}},
    ]
    for own in shapes:
        with api({SELF: (200, own)}) as address:
            examine(address)
    own = {"stats": {"client": {"node_id": "n"}}}
    for node in [
        {"Attributes": odd, "Name": odd, "Drivers": odd},
        {"Attributes": {"unique.hostname": odd}, "Drivers": {"milo": odd}},
        {"Drivers": {"milo": {"Detected": odd, "Healthy": odd, "HealthDescription": odd}}},
    ]:
        with api({SELF: (200, own), "/v1/node/n": (200, node)}) as address:
            examine(address)


def test_a_nodes_id_is_no_path_and_no_header() -> None:
    """It is part of the next request, which says nothing but that."""
    own = {"stats": {"client": {"node_id": "../x?a=b y"}}}
    with api({SELF: (200, own), "/v1/node/..%2Fx%3Fa%3Db%20y": (200, {"Name": "n"})}) as address:
        assert agent_api.ask_agent(address).node == "n"


@AS_ROOT
def test_nothing_of_others_is_run_or_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A false agent names a plugin directory, a crun and a profile that another user has made."""
    mark = tmp_path / "ran"
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for name in ("milo", "crun"):
        (theirs / name).write_text(f"#!/bin/sh\ntouch {mark}\necho {name} 1\n")
        (theirs / name).chmod(0o755)
    os.mkfifo(theirs / "profile")
    for path in (theirs, *theirs.iterdir()):
        os.chown(path, 65534, 65534)
    read: list[str] = []
    monkeypatch.setattr(facts, "read_executable", read.append)
    assert "belongs to the user 65534" in facts.look_at_plugin_dir(str(theirs)).changeable
    options = PluginOptions(crun_path=str(theirs / "crun"), seccomp_profile=str(theirs / "profile"))
    found = {one.check: one for one in host_facts.check_host(options)}
    assert found["crun"].verdict is Verdict.FAILED and "was not run" in found["crun"].found
    assert "but a FIFO" in found["seccomp"].found
    assert "container" not in found
    assert not mark.exists() and not read


def test_crun_has_a_place_to_make_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which it needs to say its version, and an ordinary user may have none; it does not stay."""
    crun, mark = tmp_path / "crun", tmp_path / "mark"
    crun.write_text(
        '#!/bin/sh\nmkdir "${XDG_RUNTIME_DIR:-/no/run}/crun" || exit 1\n'
        f'echo "$XDG_RUNTIME_DIR" >{mark}\necho "crun version 1.21"\n'
    )
    crun.chmod(0o755)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    made = Trial(None, 0.1)
    monkeypatch.setattr(host_facts, "try_container", lambda *_: made)
    monkeypatch.setattr(host_facts, "try_without_root", lambda _: made)
    options = PluginOptions(crun_path=str(crun))
    found = {one.check: one for one in host_facts.check_host(options)}["crun"]
    assert found.verdict is Verdict.OK and found.found.endswith("version 1.21"), found
    assert not Path(mark.read_text().strip()).exists()


def test_a_relative_directory_has_an_end() -> None:
    """An agent may name any data_dir."""
    assert host_facts.look_at("no/such/directory").exists is False


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl")
def test_an_agent_with_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NOMAD_CACERT says whom to trust; without it the reason is the certificate."""
    key, cert = str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")
    words = "-nodes -newkey rsa:2048 -days 2 -subj /CN=own -addext subjectAltName=IP:127.0.0.1"
    made = ["openssl", "req", "-x509", *words.split(), "-keyout", key, "-out", cert]
    subprocess.run(made, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    own = {"config": {"Version": {"Version": "2.0.5"}}}
    with api({SELF: (200, own)}, context) as address:
        secure = address.replace("http:", "https:")
        assert "self-signed certificate" in agent_api.ask_agent(secure).problem
        monkeypatch.setenv("NOMAD_CACERT", cert)
        assert agent_api.ask_agent(secure).version == "2.0.5"
        monkeypatch.setenv("NOMAD_CACERT", str(tmp_path / "none.pem"))
        assert agent_api.ask_agent(secure).problem == "No such file or directory"
