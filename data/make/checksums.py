"""Write SHA256SUMS, and the sizes and checksums that README.md states for each file."""

import argparse
import hashlib
import re
from pathlib import Path

from common import DATA, replacing

SUFFIXES = {".npz", ".png", ".jpg", ".wav", ".txt", ".cfg", ".weights"}


def shipped_files() -> list[Path]:
    """List the data files, sorted, as paths relative to data/."""
    files = (path.relative_to(DATA) for path in DATA.rglob("*") if path.is_file())
    return sorted(
        path for path in files if path.suffix in SUFFIXES and path.parts[0] != "make"
    )


def main() -> None:
    """Hash every file; write the list; bring README.md up to date."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    sums = {
        path.as_posix(): hashlib.sha256((DATA / path).read_bytes()).hexdigest()
        for path in shipped_files()
    }
    with replacing(DATA / "SHA256SUMS") as temporary:
        temporary.write_text("".join(f"{sums[name]}  {name}\n" for name in sums))

    readme = (DATA / "README.md").read_text(encoding="utf-8")
    for name, digest in sums.items():
        fact = f"{(DATA / name).stat().st_size:,} bytes, SHA-256 `{digest}`"
        heading = rf"(?m)(^## `{re.escape(name)}`\n\n- )[\d,]+ bytes, SHA-256 `\w*`"
        readme = re.sub(heading, rf"\g<1>{fact}", readme)
    with replacing(DATA / "README.md") as temporary:
        temporary.write_text(readme, encoding="utf-8")
    total = sum((DATA / name).stat().st_size for name in sums)
    print(f"{len(sums)} files, {total:,} bytes")


if __name__ == "__main__":
    main()
