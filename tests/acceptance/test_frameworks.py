"""The how-to pages' jobs, with applications of the frameworks' own, as Maven builds them."""

from __future__ import annotations

import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import artifacts, maven, pages
from tests.support.nomad import Job, Nomad
from tests.support.waiting import scaled, wait_for

APPS = Path(__file__).parents[1] / "apps"
SHOWN_URL = "http://127.0.0.1:8000"
START_S = 120
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))

Run = Callable[[str], Job]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A directory, and the address at which it is served."""
    with artifacts.serve(tmp_path) as url:
        yield tmp_path, url


def built(name: str, *goals: str) -> Path:
    """Return the application of that name, built as its page says.

    Skips where Maven cannot get what it needs.
    """
    assert " ".join(("mvn", *goals)) in (pages.DOCS / f"howto/{name}.md").read_text()
    try:
        return maven.build(APPS / name, *goals)
    except maven.NotObtainableError as error:
        pytest.skip(f"THE HOW-TO OF {name} IS NOT TRIED: {error}")


def run_page(page: str, place: Path, directory: Path) -> None:
    """Run the page's ``java`` and ``tar`` commands, in ``directory``; archives go to ``place``."""
    for kind, text in pages.blocks(page):
        for line in text.splitlines() if kind == "sh" else []:
            if not line.startswith("mvn "):
                subprocess.run(["sh", "-ec", line], cwd=directory, check=True)
    for archive in directory.glob("*.tar.gz"):
        archive.rename(place / archive.name)


def healthy(nomad: Nomad, job: Job) -> bool:
    """Whether the job's check has succeeded."""
    allocation = job.allocation()
    [found] = job.allocations()
    if found["ClientStatus"] == "failed":
        raise AssertionError(found["TaskStates"])
    checks = nomad.get(f"/v1/client/allocation/{allocation}/checks") or {}
    return any(check["Status"] == "success" for check in checks.values())


def address(nomad: Nomad, service: str) -> str:
    """Return where a service listens, as Nomad's discovery has it."""
    [found] = nomad.get(f"/v1/service/{service}")
    return f"{found['Address']}:{found['Port']}"


def assert_web_service(nomad: Nomad, text: str, last_words: str) -> None:
    """It gets healthy, has its configuration, and answers a running request before it ends."""
    job = nomad.run(text)
    wait_for("a successful check", lambda: healthy(nomad, job), START_S)
    base = f"http://{address(nomad, 'shop')}"
    with OPENER.open(f"{base}/", timeout=scaled(20)) as answer:
        assert answer.read() == b"hello from shop"
    answers: list[bytes] = []

    def ask() -> None:
        with OPENER.open(f"{base}/slow", timeout=scaled(30)) as answer:
            answers.append(answer.read())

    asking = threading.Thread(target=ask)
    asking.start()
    job.wait_logs("slow request")
    job.stop()
    asking.join()
    assert answers == [b"hello from shop"]
    job.wait_logs(last_words)
    assert job.exit_code() == 143, job.events()
    job.nomad.cli("job", "stop", "-purge", job.id)


def test_spring_boot(nomad: Nomad, served: tuple[Path, str]) -> None:
    """A fat JAR, and the same unpacked: configuration, health, graceful shutdown, exit code."""
    place, url = served
    target = built("spring-boot", "package") / "target"
    (place / "shop.jar").symlink_to(target / "shop.jar")
    [job] = (text.replace(SHOWN_URL, url) for text in pages.jobs("howto/spring-boot.md"))
    assert_web_service(nomad, job, "Graceful shutdown complete")
    run_page("howto/spring-boot.md", place, place)
    unpacked = job
    for kind, text in pages.blocks("howto/spring-boot.md"):
        if kind == "hcl" and text.startswith("artifact"):
            artifact, config = text.replace(SHOWN_URL, url).split("\n\n")
            unpacked = replaced(replaced(unpacked, "artifact", artifact), "config", config)
    assert unpacked != job
    assert_web_service(nomad, unpacked, "Graceful shutdown complete")


def replaced(job: str, name: str, block: str) -> str:
    """Return the job with another ``block`` in the place of its task's own."""
    start = job.index(f"      {name} {{")
    end = job.index("\n      }\n", start) + len("\n      }\n")
    return job[:start] + block + "\n" + job[end:]


def test_quarkus(nomad: Nomad, served: tuple[Path, str]) -> None:
    """A fast-jar from an archive: configuration, health, graceful shutdown, exit code."""
    place, url = served
    run_page("howto/quarkus.md", place, built("quarkus", "package"))
    [job] = pages.jobs("howto/quarkus.md")
    assert_web_service(nomad, job.replace(SHOWN_URL, url), "stopped in")


def test_kafka(nomad: Nomad, served: tuple[Path, str]) -> None:
    """A broker in KRaft mode, and a client that writes and reads a thousand records."""
    place, url = served
    goal = "dependency:copy-dependencies"
    run_page("howto/kafka.md", place, built("kafka", goal, "-DoutputDirectory=lib"))
    broker, client = (text.replace(SHOWN_URL, url) for text in pages.jobs("howto/kafka.md"))
    kafka = nomad.run(broker)
    wait_for("a successful check", lambda: healthy(nomad, kafka), START_S)
    orders = nomad.run(client)

    def ended() -> bool:
        return all(alloc["ClientStatus"] == "complete" for alloc in orders.allocations())

    orders.allocation()
    wait_for("the client to end", ended, START_S)
    read = nomad.cli("alloc", "logs", "-task", "consume", orders.allocation())
    assert len(read.splitlines()) == 1000
    written = nomad.cli("alloc", "logs", "-task", "produce", orders.allocation())
    assert "1000 records sent" in written
    kafka.nomad.cli("job", "stop", "-detach", "kafka")

    def stopped() -> bool:
        return all(alloc["ClientStatus"] == "complete" for alloc in kafka.allocations())

    wait_for("the broker to end", stopped, 90)
    words = ("alloc", "logs", "-task", "broker", kafka.allocation())
    wait_for("its last words", lambda: "shut down completed" in nomad.cli(*words))
    [allocation] = kafka.allocations()
    events = allocation["TaskStates"]["broker"]["Events"]
    [end] = (event for event in events if event["Type"] == "Terminated")
    assert end["Details"]["exit_code"] == "143"
