"""Let atheris look for bytes that break an engine: ``python tests/fuzz_nbd.py TARGET SECONDS``.

It begins with random bytes, and keeps what led it further in build/fuzz/, where it also writes
what it finds; tests/unit/nbd/test_nbd_fuzz.py is the place for what is to stay found.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["nbexport.nbd", "nbexport.bits"]):
    from fuzz_targets import TARGETS


BUILD = Path(__file__).parent.parent / "build" / "fuzz"
SEEDS, LENGTH = 100, 600
MEMORY_MIB = 1024


def main() -> None:
    if len(sys.argv) != 3 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: {sys.argv[0]} {'|'.join(TARGETS)} SECONDS")
    name, seconds = sys.argv[1:]
    corpus = BUILD / name
    corpus.mkdir(parents=True, exist_ok=True)
    chance = random.Random(name)
    for number in range(SEEDS):
        seed = chance.randbytes(chance.randrange(LENGTH))
        (corpus / f"seed-{number}").write_bytes(seed)
    bounds = [f"-max_total_time={seconds}", f"-max_len={LENGTH}", f"-rss_limit_mb={MEMORY_MIB}"]
    where = [f"-artifact_prefix={BUILD}/{name}-", "-print_final_stats=1", str(corpus)]
    atheris.Setup([sys.argv[0], *bounds, *where], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
