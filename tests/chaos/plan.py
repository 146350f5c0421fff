"""What a chaos run is to do: how often each fault, in an order that a seed decides."""

from __future__ import annotations

from random import Random

import attrs


@attrs.frozen
class Plan:
    """The parameters of a run. All but the first four are numbers of faults.

    Each field is an option of the command line: see `tests.chaos.run`.
    """

    seed: int = 0
    rate: int = 5_000_000
    """Bytes a second on each stream of each steady task."""
    tasks: int = 1
    """Steady tasks under Milo; one more runs under raw_exec, for comparison."""
    stall_us: int = 5_000
    """Writes of the application that take longer are written down."""
    plugin_kills: int = 100
    plugin_pauses: int = 10
    agent_restarts: int = 20
    """Half of them stop the agent as a service manager does, half by SIGKILL."""
    logmon_pauses: int = 20
    logmon_kills: int = 2
    """Each is followed by a restart of the agent: nothing else starts a log collector."""
    task_kills: int = 20
    blind_task_kills: int = 4
    """The task process is killed while the plugin is stopped by SIGSTOP."""
    bare_task_kills: int = 4
    """The task process is killed together with the spawner."""
    double_kills: int = 2
    """Plugin and task process, within a second."""
    spawner_kills: int = 10
    stops: int = 6
    """A task is stopped, and another one started."""
    stops_in_plugin_kills: int = 4
    """The plugin is killed while a task is being stopped."""
    starts_in_plugin_kills: int = 4
    """The plugin is killed while a task is being started."""
    starts_in_agent_kills: int = 2
    """The agent is killed while a task is being started."""

    def faults(self, random: Random) -> list[str]:
        """Return the name of every fault, in random order."""
        stops = self.agent_restarts // 2
        counts = {
            "plugin kill": self.plugin_kills,
            "plugin pause": self.plugin_pauses,
            "agent stop": stops,
            "agent kill": self.agent_restarts - stops,
            "logmon pause": self.logmon_pauses,
            "logmon kill": self.logmon_kills,
            "task kill": self.task_kills,
            "blind task kill": self.blind_task_kills,
            "bare task kill": self.bare_task_kills,
            "double kill": self.double_kills,
            "spawner kill": self.spawner_kills,
            "stop": self.stops,
            "stop in plugin kill": self.stops_in_plugin_kills,
            "start in plugin kill": self.starts_in_plugin_kills,
            "start in agent kill": self.starts_in_agent_kills,
        }
        names = [name for name, count in counts.items() for _ in range(count)]
        random.shuffle(names)
        return names


SHORT = Plan(
    rate=1_000_000,
    plugin_kills=5,
    plugin_pauses=1,
    agent_restarts=2,
    logmon_pauses=2,
    logmon_kills=1,
    task_kills=3,
    blind_task_kills=1,
    bare_task_kills=1,
    double_kills=1,
    spawner_kills=1,
    stops=1,
    stops_in_plugin_kills=1,
    starts_in_plugin_kills=1,
    starts_in_agent_kills=1,
)
"""The short form: every fault at least once, within three minutes."""
