"""The names that Nomad 2.0.5 offers as signals: the node attribute ``os.signals``."""

from __future__ import annotations

from typing import Final

_ATTRIBUTE: Final = (
    "SIGABRT,SIGALRM,SIGBUS,SIGCONT,SIGFPE,SIGHUP,SIGILL,SIGINT,SIGIO,SIGIOT,SIGKILL,SIGNULL,"
    "SIGPIPE,SIGPROF,SIGQUIT,SIGSEGV,SIGSTOP,SIGSYS,SIGTERM,SIGTRAP,SIGTSTP,SIGTTIN,SIGTTOU,"
    "SIGUSR1,SIGUSR2,SIGWINCH,SIGXCPU,SIGXFSZ"
)
NOMADS: Final = _ATTRIBUTE.split(",")
