"""The thread dump that a JVM is asked for before it is killed, by SIGQUIT.

HotSpot prints it on its standard output, OpenJ9 writes a file and says so on its standard error.
A process that does not catch SIGQUIT is ended by it: a JVM that has not come far enough, one whose
options leave the signal to the application, or what is no JVM. So it is looked at first.
"""

from __future__ import annotations

import signal

from milo.errors import ControlError
from milo.process_signals import catches, is_halted
from milo.task.journal import Journal
from milo.task.oci.container import Container


def ask(container: Container, sent: str, journal: Journal) -> bool:
    """Have the JVM say what its threads are doing; return False when it cannot.

    ``sent`` names the signal that it has not ended by.
    """
    pid = container.process.pid
    if not catches(pid, signal.SIGQUIT):
        journal.log("info", "no thread dump before the SIGKILL: SIGQUIT would end the application")
        return False
    if is_halted(pid):
        journal.log("info", "no thread dump before the SIGKILL: the application is halted")
        return False
    try:
        container.signal(signal.SIGQUIT)
    except ControlError:
        return False  # it ends just now
    journal.log("info", f"the task has not ended after {sent}: its JVM is asked for its threads")
    return True
