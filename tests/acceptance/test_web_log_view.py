"""The log view of Nomad's web UI: the UI itself where it is built in, else what it does.

Its requests are those of Nomad 2.0.5's ui/app/utils/classes: `gotoHead` and `gotoTail` in
log.js, and the follower in stream-logger.js, which asks for frames of base64 in JSON.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from http.client import HTTPResponse
from typing import Any

import pytest
from selenium.webdriver.common.by import By

from tests.acceptance.conftest import RunJar
from tests.support import browser
from tests.support.nomad import Job, Nomad
from tests.support.waiting import wait_for

TAIL = {"origin": "end", "offset": 50000}
HEAD = {"origin": "start", "offset": 0}
"""What the UI asks for; 50000 is its MAX_OUTPUT_LENGTH."""

FOLLOW_IN_PAGE = """
const [path, wanted, done] = arguments;
(async () => {
  const reader = (await fetch(path)).body.getReader();
  const text = new TextDecoder();
  const seen = [];
  let rest = '', line = '';
  while (seen.length < wanted) {
    const { value, done: ended } = await reader.read();
    if (ended) break;
    rest += text.decode(value, { stream: true });
    const frames = rest.split(/(?<=\\})/);
    rest = frames[frames.length - 1].endsWith('}') ? '' : frames.pop();
    for (const frame of frames) {
      const data = JSON.parse(frame).Data;
      if (!data) continue;
      const lines = (line + atob(data)).split('\\n');
      line = lines.pop();
      for (const one of lines) seen.push([Date.now(), one]);
    }
  }
  await reader.cancel();
  done(seen);
})().catch(problem => done(String(problem)));
"""
"""Follows a log as the UI's stream logger does; gives [time in ms, line] of the first lines."""


def logs_path(job: Job) -> str:
    """Return the path that the log view asks for."""
    return f"/v1/client/fs/logs/{job.allocation()}"


def frames(response: HTTPResponse) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a framed response as they arrive; nothing separates them."""
    decoder = json.JSONDecoder()
    buffer = ""
    while chunk := response.read1(65536):
        buffer += chunk.decode()
        while buffer:
            try:
                frame, end = decoder.raw_decode(buffer)
            except json.JSONDecodeError:
                break
            yield frame
            buffer = buffer[end:].lstrip()


def data_of(frame: dict[str, Any]) -> bytes:
    """Return a frame's bytes; a heartbeat has none."""
    return base64.b64decode(frame.get("Data") or "")


@pytest.fixture
def web_ui(nomad: Nomad) -> str:
    """The address of the agent's web UI; skips where this build of Nomad has none."""
    with nomad.open("/ui/") as response:
        if b"UI is not available" in response.read():
            pytest.skip("this build of Nomad carries no web UI (what it asks for is tested)")
    return f"{nomad.address}/ui"


@pytest.fixture
def _browser_here() -> None:
    """Skip where no browser can be driven."""
    if reason := browser.missing():
        pytest.skip(reason)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_head_and_tail(run_jar: RunJar, stream: str) -> None:
    """Acceptance 15: the view's head and tail requests show an ended task's whole stream."""
    job = run_jar("both.jar", args=["300"])
    job.wait_state("dead")
    expected = "".join(f"{stream.removeprefix('std')} {i}\n" for i in range(300)).encode()
    job.wait_log(expected, *(["-stderr"] if stream == "stderr" else []))
    for where in (HEAD, TAIL):
        query = {"task": "app", "type": stream, **where}
        with job.nomad.open(logs_path(job), **query) as response:
            assert b"".join(data_of(frame) for frame in frames(response)) == expected
        with job.nomad.open(logs_path(job), plain="true", **query) as response:
            assert response.headers["Content-Type"].startswith("text/plain")
            assert response.read() == expected


def test_follow_frames(run_jar: RunJar) -> None:
    """Acceptance 15: the view's follower gets what was printed before, then each new line."""
    job = run_jar("clock.jar", args=["250"], kind="service")
    job.wait_logs("tick 3 ")
    query = {"task": "app", "type": "stdout", "follow": "true", **TAIL}
    text = b""
    delays = []
    with job.nomad.open(logs_path(job), **query) as response:
        for frame in frames(response):
            now = time.time()
            data = data_of(frame)
            if text and data:
                delays += [now - int(line.split()[2]) / 1000 for line in data.splitlines()]
            text += data
            if len(delays) >= 10:
                break
    numbers = [int(line.split()[1]) for line in text.splitlines()]
    assert numbers == list(range(len(numbers)))
    assert max(delays) < 1.0, delays


@pytest.mark.usefixtures("_browser_here")
def test_follow_in_browser(nomad: Nomad, run_jar: RunJar) -> None:
    """Acceptance 15: in a browser, a page of the agent's origin follows the log live."""
    query = "task=app&type=stdout&follow=true&origin=end&offset=50000"
    with browser.open_browser(f"{nomad.address}/ui/") as page:
        # Not before: where a browser takes ten seconds to start, all that is read would be old.
        job = run_jar("clock.jar", args=["250"], kind="service")
        job.wait_logs("tick 3 ")
        opened = time.time() * 1000
        seen = page.execute_async_script(FOLLOW_IN_PAGE, f"{logs_path(job)}?{query}", 40)
    assert isinstance(seen, list), seen
    assert [int(line.split()[1]) for _, line in seen] == list(range(len(seen)))
    delays = [
        when - printed for when, line in seen if (printed := int(line.split()[2])) > opened + 1000
    ]
    assert delays
    assert max(delays) < 1000, delays


@pytest.mark.usefixtures("_browser_here")
def test_real_log_view(run_jar: RunJar, web_ui: str) -> None:
    """Acceptance 15: the web UI's own log view shows the lines, and new ones as they come."""
    job = run_jar("clock.jar", args=["250"], kind="service")
    job.wait_logs("tick 3 ")
    with browser.open_browser(f"{web_ui}/allocations/{job.allocation()}/app/logs") as page:

        def shown() -> str:
            return page.find_element(By.TAG_NAME, "body").text

        wait_for("the first lines in the log view", lambda: "tick 0 " in shown(), 30)
        newest = job.logs().decode().count("\n")
        wait_for("a new line in the log view", lambda: f"tick {newest + 4} " in shown(), 30)
