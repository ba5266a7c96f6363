"""Write pride_and_prejudice.txt: the first 36 chapters of Jane Austen's novel.

The text comes from Debian's package r-cran-janeaustenr. It need not be installed:

    apt-get download r-cran-janeaustenr
    dpkg-deb -x r-cran-janeaustenr_*.deb janeaustenr
    python data/make/pride_and_prejudice.py --root janeaustenr
"""

import argparse
import warnings
import zlib
from pathlib import Path

from common import DATA, fail, replacing

FOLDER = "usr/lib/R/site-library/janeaustenr/data"
TITLE, CUT = "PRIDE AND PREJUDICE", "Chapter 37"


def read_lines(folder: Path) -> list[str]:
    """Read the novel from R's lazy-load database: an index and a file of records.

    A record is the length of its content, four bytes, and a zlib stream.
    """
    try:
        import rdata
    except ImportError:
        fail("rdata is missing: pip install -r data/make/requirements.txt")
    try:
        index = rdata.read_rds(folder / "Rdata.rdx")
        database = (folder / "Rdata.rdb").read_bytes()
    except OSError as error:
        fail(f"{error.filename} is missing: apt install r-cran-janeaustenr (or --help)")
    start, length = index["variables"]["prideprejudice"].tolist()
    content = zlib.decompress(database[start + 4 : start + length])
    with warnings.catch_warnings(action="ignore"):  # that the stream has no file type
        parsed = rdata.parser.parse_data(content)
    return [str(line) for line in rdata.conversion.convert(parsed)]


def main() -> None:
    """Read the lines, cut them before a chapter, write them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root", type=Path, default=Path("/"), help="where it is unpacked; default: /"
    )
    parser.add_argument("--out", type=Path, default=DATA / "pride_and_prejudice.txt")
    arguments = parser.parse_args()

    lines = read_lines(arguments.root / FOLDER)
    if lines[0] != TITLE or CUT not in lines:
        fail(f"the package's text is not as expected: {TITLE} ... {CUT}")
    text = "\n".join(lines[: lines.index(CUT)]).strip() + "\n"
    with replacing(arguments.out) as temporary:
        temporary.write_bytes(text.encode("utf-8"))
    print(f"{arguments.out}: {len(text):,} characters")


if __name__ == "__main__":
    main()
