"""The part of ``milo gc`` about startup archives."""

from __future__ import annotations

import os
import time

from milo.cli.output import say, size
from milo.task.java.startup_store import UNUSED_S, Kept, StartupStore


def collect_archives(path: str, owners: tuple[int, ...] = (), *, remove: bool) -> int:
    """Show the archives below ``path``; with ``remove``, remove what nobody uses any more.

    That is what was not used for `UNUSED_S`, what a killed process has left half written, and the
    notes of what a JVM could not write. ``owners``: who may change it, if this process has entered
    a user namespace; `state_dirs.refusal` has looked before. Returns the exit status.
    """
    if not os.path.isdir(path):
        return 0
    store = StartupStore(path, 0, owners)
    now_s = time.time()
    archives = sorted(store.all(), key=lambda kept: kept.used_at_s)
    stay = []
    status = 0
    for kept in archives:
        unused = now_s - kept.used_at_s > UNUSED_S
        if remove and unused and store.remove(kept):
            say(f"removed  {_words(kept, now_s)}")
            continue
        stay.append(kept)
        if not remove:
            say(f"archive  {_words(kept, now_s)}")
        elif unused:
            status = 1
            say(f"FAILED   {_words(kept, now_s)}")
    strays = store.strays()
    for stray in strays:
        if not remove:
            say(f"stray    {stray}. To remove it: milo gc --yes")
            continue
        store.discard(stray)
        stays = os.path.lexists(stray)
        status |= stays
        say(f"{'FAILED  ' if stays else 'removed '} {stray}: a stray of the startup cache")
    if archives:
        sizes = [kept.description.size_bytes for kept in stay]
        what = f"{len(sizes)} startup archive{'' if len(sizes) == 1 else 's'}"
        say(f"{what} of {size(sum(sizes))} in {path}")
    return status


def _words(kept: Kept, now_s: float) -> str:
    description = kept.description
    made, used = (
        int(max(0.0, now_s - at_s) // 86400) for at_s in (description.made_at_s, kept.used_at_s)
    )
    return (
        f"{kept.path}: of {description.owner}, {size(description.size_bytes)}, "
        f"{description.java}, made {made} and last used {used} days ago"
    )
