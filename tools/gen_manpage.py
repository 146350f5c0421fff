"""Write man/milo.1, the manual page, from the command's own parser.

Usage: python tools/gen_manpage.py [FILE]. The wheel puts it into share/man/man1.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Final

from argparse_manpage.manpage import Manpage

ROOT: Final = Path(__file__).resolve().parent.parent
TARGET: Final = ROOT / "man/milo.1"


def manpage() -> str:
    """Return the page; the same parser gives the same bytes."""
    from milo.cli.parser import build_parser

    os.environ["COLUMNS"] = "80"  # argparse folds to the width of the terminal
    page = Manpage(build_parser(), format="single-commands-section")
    page.description = "run Java JARs in containers, as Nomad's task driver or by hand"
    page.date = ""
    page.source = "Milo"
    page.manual = "Milo"
    # Usage has line ends of its own; and nothing but a request begins with a dot or a quote.
    text = re.sub(r"^usage: (.*(?:\n +\S.*)*)$", r".nf\n\1\n.fi", str(page), flags=re.MULTILINE)
    # A value that may be left out is joined to its option.
    text = re.sub(
        r"\\fR \\fI\\,\[([A-Z]+)\]\\/\\fR$", r"\\fR[=\\fI\1\\fR]", text, flags=re.MULTILINE
    )
    text = text.replace(".SH COMMENTS\nexit status:\n", ".SH EXIT STATUS\n.nf\n")
    return re.sub(r"^'", r"\\&'", text, flags=re.MULTILINE)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET
    target.write_text(manpage(), encoding="utf-8")
