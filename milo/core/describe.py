"""Sentences about a task, for ``nomad alloc status`` and people. Pure."""

from __future__ import annotations

from typing import Final

from milo.core.java.out_of_memory import EXIT_ON_OOM_CODE
from milo.core.records import ExitRecord, MemoryPeak, short_id
from milo.core.signals import signal_name
from milo.core.text import shortened

MIB: Final = 1024 * 1024
MAX_LINE_CHARS: Final = 160
"""Of the application's last line on standard error; Nomad shows an event on one line."""


def exit_sentence(record: ExitRecord, *, stopped: bool = False) -> str:
    """Return the event that tells how a task ended.

    ``stopped`` says that Nomad had asked for the stop, as the record itself may, so that death by
    its signal is no surprise. A Java OutOfMemoryError that the output named is added, where the
    task did not end as it was asked to: it is another thing than the kernel's OOM kill. So is the
    last line on standard error, where the task has failed.
    """
    stopped = stopped or record.stop_asked
    failed = not (record.successful or stopped)
    words = _exit_words(record, stopped=stopped) + _threads(record) + _others_killed(record)
    return words + (_last_line(record) if failed else "")


def kills_sentence(count: int, limit_bytes: int) -> str:
    """Return the event that the kernel has killed processes of a task that runs on."""
    what = "a process" if count == 1 else f"{count} processes"
    return f"The kernel killed {what} of the task for memory{_limit_words(limit_bytes)}"


def _limit_words(limit_bytes: int) -> str:
    return f" (limit {_mib(limit_bytes)} MiB)" if limit_bytes else ""


def exit_message(record: ExitRecord, *, stopped: bool = False) -> str:
    """Return the exit message of Nomad's event Terminated, which a success has none of.

    See `exit_sentence`. An OOM kill begins with the words of Nomad's docker driver.
    """
    if record.successful:
        return ""
    sentence = exit_sentence(record, stopped=stopped)
    return f"OOM Killed: {sentence}" if record.oom_killed else sentence


def end_for_nomad(record: ExitRecord, *, stopped: bool = False) -> str:
    """Return `exit_message`, and after a failure which command tells more of it."""
    message = exit_message(record, stopped=stopped)
    if not message or stopped or record.stop_asked:
        return message
    return f"{message}; more: milo post-mortem {short_id(record.task_id)}"


def exit_word(record: ExitRecord) -> str:
    """Return an exit code, ``SIGTERM`` or its likes, ``OOM``, or ``?`` where it is not known."""
    if record.oom_killed:
        return "OOM"
    if record.error:
        return "?"
    return signal_name(record.signal) if record.signal else str(record.exit_code)


def _exit_words(record: ExitRecord, *, stopped: bool) -> str:
    if record.error:
        return f"How the task ended is not known: {record.error}" + _more(record)
    if record.oom_killed:
        text = "Task was killed by the kernel because it reached its memory limit (OOM)"
        return text + _memory_words(record.memory) + _java_words(record)
    if record.signal:
        by = "as asked" if stopped else "unexpectedly"
        text = f"Task was ended {by} by {signal_name(record.signal)} (signal {record.signal})"
        return text if stopped and not record.crash else text + _more(record)
    if record.exit_code and stopped:
        return f"Task was stopped as asked and ended with exit code {record.exit_code}"
    if record.exit_code:
        return f"Task failed with exit code {record.exit_code}" + _more(record)
    return "Task completed successfully" + _java_words(record)


def _more(record: ExitRecord) -> str:
    """Return what the JVM itself said about its end."""
    return (f"; {record.crash}" if record.crash else "") + _java_words(record)


def _threads(record: ExitRecord) -> str:
    if not (record.thread_dump and record.stop_killed):
        return ""
    return f"; what its threads were doing then is in {record.thread_dump_files or 'its log'}"


def _others_killed(record: ExitRecord) -> str:
    others = record.oom_kills - record.oom_killed
    if others <= 0:
        return ""
    what = "another process" if others == 1 else f"{others} other processes"
    return f"; the kernel killed {what} of the task for memory"


def _java_words(record: ExitRecord) -> str:
    if not record.java_oom:
        return ""
    text = f"; its output had named {record.java_oom}"
    if record.exit_code == EXIT_ON_OOM_CODE and not record.signal:
        return f"{text}, and {EXIT_ON_OOM_CODE} is how -XX:+ExitOnOutOfMemoryError ends the JVM"
    return text


def _last_line(record: ExitRecord) -> str:
    line = record.last_stderr_line
    if not line or (record.java_oom and record.java_oom in line):  # told already
        return ""
    return f"; last line on stderr: {shortened(line, MAX_LINE_CHARS)}"


def _memory_words(memory: MemoryPeak) -> str:
    if not memory.limit_bytes:
        return ""
    limit = f"its limit of {_mib(memory.limit_bytes)} MiB"
    if not memory.peak_bytes:
        return f": {limit}"
    return f": it used up to {_mib(memory.peak_bytes)} MiB of {limit}"


def _mib(count_bytes: int) -> str:
    return f"{count_bytes / MIB:.1f}".removesuffix(".0")
