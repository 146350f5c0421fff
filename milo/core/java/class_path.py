"""Where the entries of a manifest's Class-Path lead, as the JVM's class loader takes them. Pure.

They are URLs relative to the JAR's own (JAR File Specification, "Class-Path Attribute"). Since JDK
8u201 and 11.0.2 an entry with another scheme than ``file`` is ignored when the JAR is a file
(jdk.internal.loader.URLClassPath).
"""

from __future__ import annotations

import posixpath
from urllib.parse import unquote


def resolve(jar: str, entry: str) -> str | None:
    """Return the path that an ``entry`` of the JAR at the absolute path ``jar`` leads to.

    A slash at its end says that it is a directory of classes. None when it is no local file.
    """
    scheme, colon, rest = entry.partition(":")
    if colon:
        if scheme.lower() != "file":
            return None
        entry = rest
    if entry.startswith("//"):
        host, _, rest = entry[2:].partition("/")
        if host not in ("", "localhost"):
            return None
        entry = f"/{rest}"
    entry = entry.partition("#")[0]
    if not entry or "\0" in (path := unquote(entry, errors="surrogateescape")):
        return None
    normal = posixpath.normpath(posixpath.join(posixpath.dirname(jar), path))
    # POSIX keeps two slashes at the beginning, which Linux does not tell from one.
    normal = f"/{normal.lstrip('/')}"
    return f"{normal}/" if path.endswith("/") and normal != "/" else normal
