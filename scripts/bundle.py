"""Write the SHA-256 of every bundled file to adaptkit/bundled.json.

    python scripts/bundle.py

Run it after the samples or the mini models were made anew; a test compares.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "adaptkit"


def main() -> None:
    folders = [PACKAGE / "samples", PACKAGE / "models" / "mini"]
    files = [f for folder in folders for f in sorted(folder.glob("*/*")) if f.is_file()]
    sums = {
        f.relative_to(PACKAGE).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files
    }
    (PACKAGE / "bundled.json").write_text(json.dumps(sums, indent=1) + "\n", encoding="utf-8")
    print(f"{len(sums)} files, {sum(f.stat().st_size for f in files) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
