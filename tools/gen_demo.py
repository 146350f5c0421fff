"""Write milo/cli/demo/hello.jar, the sample of `milo demo`, from tools/demo/Hello.java.

Usage: python tools/gen_demo.py [DIRECTORY]. It is kept in the repository since Milo is also built
where there is no Java compiler; every javac that knows Java 8 writes the same bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from tests.support import jars

ROOT: Final = Path(__file__).resolve().parent.parent
SOURCE: Final = ROOT / "tools/demo/Hello.java"
OLDEST_JAVA: Final = "8"

if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "milo/cli/demo"
    jars.build(target, [SOURCE], release=OLDEST_JAVA)
