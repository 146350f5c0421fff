"""The faults: what each does, and what has to be well again afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs

from milo.host.follower import ADOPTION_WINDOW_S, MAX_ADOPTIONS
from tests.chaos import processes
from tests.chaos.world import VICTIM_SHARE, WELL_S, Subject, World, now_ms
from tests.support.nomad import Job
from tests.support.waiting import wait_for

WINDOW_S = ADOPTION_WINDOW_S + 1
LONGEST_LOGMON_PAUSE_S = 1.5
LONGEST_PLUGIN_PAUSE_S = 2.0
BLIND_S = 0.3
"""How long a plugin is stopped in whose time a task process dies."""
LONGEST_WITHOUT_LOGMON_S = 12.0


@attrs.frozen
class Done:
    """One fault that was done."""

    name: str
    began_ms: int
    ended_ms: int
    """When all was well again; milliseconds since the epoch."""
    problem: str = ""

    @property
    def took_s(self) -> float:
        """Seconds until all was well again."""
        return (self.ended_ms - self.began_ms) / 1000


def do(world: World, name: str) -> Done:
    """Do the fault called ``name`` and wait until all is well; what was not, is in the result."""
    began_ms, problem = now_ms(), ""
    try:
        FAULTS[name](world)
        world.wait_flow()
    except (AssertionError, OSError, subprocess.SubprocessError) as error:
        problem = f"{type(error).__name__}: {error}"
    return Done(name, began_ms, now_ms(), problem)


# ---- the plugin -------------------------------------------------------------------------


def _kill_plugin(world: World) -> None:
    plugin, start = world.plugin(), world.agent.log_size()
    os.kill(plugin, signal.SIGKILL)
    world.wait_recovered(start)


def _pause_plugin(world: World) -> None:
    with _paused(world.plugin()):
        time.sleep(world.random.uniform(0.1, LONGEST_PLUGIN_PAUSE_S))


def _kill_spawner(world: World) -> None:
    plugin = world.plugin()
    _kill_spawners(plugin)
    _wait_spawner(plugin)


def _kill_spawners(plugin: int) -> None:
    for pid in processes.spawners(plugin):
        os.kill(pid, signal.SIGKILL)
    wait_for("the spawner to end", lambda: not processes.spawners(plugin), WELL_S, pause_s=0.002)


def _wait_spawner(plugin: int) -> None:
    """Wait for the next spawner; it has its name when it is ready to fork."""
    wait_for("a spawner", lambda: processes.spawners(plugin), WELL_S, pause_s=0.02)


# ---- the agent --------------------------------------------------------------------------


def _stop_agent(world: World) -> None:
    world.agent.stop()
    _start_agent(world)


def _kill_agent(world: World) -> None:
    world.agent.kill()
    _start_agent(world)


def _start_agent(world: World) -> None:
    since_s = time.time()
    world.agent.start()
    world.wait_agent(since_s)


# ---- the log collector ------------------------------------------------------------------


def _pause_logmon(world: World) -> None:
    """Pause those of all steady tasks at once: what raw_exec does then is the measure."""
    pids = [world.logmon(subject) for subject in (*world.steady, world.raw)]
    with _paused(*pids):
        time.sleep(world.random.uniform(0.05, LONGEST_LOGMON_PAUSE_S))


def _kill_logmon(world: World) -> None:
    for subject in (*world.steady, world.raw):
        os.kill(world.logmon(subject), signal.SIGKILL)
    time.sleep(world.random.uniform(0, LONGEST_WITHOUT_LOGMON_S))
    _stop_agent(world)


# ---- the task process -------------------------------------------------------------------


def _kill_task_process(world: World) -> None:
    world.plugin()
    subject = _next_to_take_over(world)
    pid = world.task_process(subject)
    os.kill(pid, signal.SIGKILL)
    _wait_successor(world, subject, pid)


def _kill_task_process_blind(world: World) -> None:
    plugin, subject = world.plugin(), _next_to_take_over(world)
    pid = world.task_process(subject)
    with _paused(plugin):
        os.kill(pid, signal.SIGKILL)
        time.sleep(world.random.uniform(0, BLIND_S))
    _wait_successor(world, subject, pid)


def _kill_task_process_and_spawner(world: World) -> None:
    plugin, subject = world.plugin(), _next_to_take_over(world)
    pid = world.task_process(subject)
    _kill_spawners(plugin)
    os.kill(pid, signal.SIGKILL)
    _wait_successor(world, subject, pid)
    _wait_spawner(plugin)
    assert world.plugin() == plugin, "the plugin has changed"


def _kill_task_process_and_plugin(world: World) -> None:
    plugin, subject = world.plugin(), _next_to_take_over(world)
    pid, start = world.task_process(subject), world.agent.log_size()
    os.kill(plugin, signal.SIGKILL)
    # The same instant; or while the next plugin starts, recovers, or has just recovered.
    time.sleep(world.random.choice([0, world.random.uniform(0, 1)]))
    os.kill(pid, signal.SIGKILL)
    wait_for(
        "Nomad to recover the task",
        lambda: any(
            "task successfully recovered on driver" in line and subject.alloc in line
            for line in world.agent.tail(start, 4 << 20).splitlines()
        ),
        WELL_S,
    )
    _wait_successor(world, subject, pid)


def _wait_successor(world: World, subject: Subject, pid: int) -> None:
    wait_for(
        f"a successor of the task process of {subject.alloc}",
        lambda: world.task_process(subject) != pid,
        WELL_S,
        pause_s=0.01,
    )


# ---- starting and stopping --------------------------------------------------------------


def _stop_task(world: World) -> None:
    world.victim.job.stop()
    world.replace_victim()


def _stop_task_and_kill_plugin(world: World) -> None:
    plugin, victim = world.plugin(), world.victim
    victim.job.nomad.cli("job", "stop", "-detach", victim.job.id)
    time.sleep(world.random.uniform(0, 0.3))
    os.kill(plugin, signal.SIGKILL)
    victim.job.wait_state("dead", WELL_S)
    # Nomad itself fails an allocation that comes while there is no plugin to ask.
    world.plugin(world.steady)
    world.replace_victim()
    world.plugin()


def _start_task_and_kill_plugin(world: World) -> None:
    job = _begin_start(world)
    plugin = processes.plugins(world.agent)[0]
    time.sleep(world.random.uniform(0, 0.1))
    os.kill(plugin, signal.SIGKILL)
    _end_start(world, job)


def _start_task_and_kill_agent(world: World) -> None:
    job = _begin_start(world)
    time.sleep(world.random.uniform(0, 0.1))
    world.agent.kill()
    world.agent.start()
    _end_start(world, job)


def _begin_start(world: World) -> Job:
    """Submit a job in the place of the victim, and return as soon as StartTask is at work."""
    world.victim.job.stop()
    known = set(world.agent.state_dir.glob("*/launch.json"))
    job = world.submit("milo", world.plan.rate // VICTIM_SHARE)
    wait_for(
        "StartTask",
        lambda: set(world.agent.state_dir.glob("*/launch.json")) - known,
        WELL_S,
        pause_s=0.002,
    )
    return job


def _end_start(world: World, job: Job) -> None:
    world.former.append(world.victim)
    world.victim = world.subject(job, "milo")
    world.restarted.add(world.victim.alloc)
    wait_for("one task process", lambda: _task_processes(world) == len(world.living), WELL_S)
    world.plugin()


def _task_processes(world: World) -> int:
    return sum(len(processes.task_records(world.agent, one.alloc)) for one in world.living)


# ---- small things -----------------------------------------------------------------------


def _one(world: World) -> Subject:
    return world.random.choice(world.steady)


def _next_to_take_over(world: World) -> Subject:
    """Return a task whose process may be killed: the driver gives up one that dies too often."""
    subject = _one(world)
    times = [at for at in world.task_kills[subject.alloc] if at > time.monotonic() - WINDOW_S]
    if len(times) >= MAX_ADOPTIONS:
        time.sleep(times[-MAX_ADOPTIONS] + WINDOW_S - time.monotonic())
    world.task_kills[subject.alloc] = [*times, time.monotonic()]
    return subject


@contextmanager
def _paused(*pids: int) -> Iterator[None]:
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


FAULTS: dict[str, Callable[[World], None]] = {
    "plugin kill": _kill_plugin,
    "plugin pause": _pause_plugin,
    "agent stop": _stop_agent,
    "agent kill": _kill_agent,
    "logmon pause": _pause_logmon,
    "logmon kill": _kill_logmon,
    "task kill": _kill_task_process,
    "blind task kill": _kill_task_process_blind,
    "bare task kill": _kill_task_process_and_spawner,
    "double kill": _kill_task_process_and_plugin,
    "spawner kill": _kill_spawner,
    "stop": _stop_task,
    "stop in plugin kill": _stop_task_and_kill_plugin,
    "start in plugin kill": _start_task_and_kill_plugin,
    "start in agent kill": _start_task_and_kill_agent,
}
