"""Bytes that nobody thought of: coverage-guided mutations of trace files, by Atheris (`pip install atheris`).

    python tests/profiler/traces/fuzz.py kineto -max_total_time=300

reads mutated files of one format (`kineto`, `nsys` or `ncu`) until one breaks what `test_fuzz.py` asks of
every file: tables that add up, or one sentence. Other arguments are libFuzzer's. What breaks it is left in
the working directory; once mended, it belongs into `found/`, which the tests read.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["profiler.traces"]):
    import profiler.traces

    for module in pkgutil.iter_modules(profiler.traces.__path__, "profiler.traces."):
        importlib.import_module(module.name)  # readers import one another late: unseen there

from test_fuzz import CATEGORIES, MARKS, NAMES, WHOLE, adds_up, read

SEEDS = {
    "kineto": [name for name in WHOLE if name.endswith(".json")],
    "nsys": [name for name in WHOLE if name.endswith(("nsys", ".sqlite"))],
    "ncu": [name for name in WHOLE if name.endswith(("ncu", ".csv"))],
}
KEYS = ("traceEvents", "schemaVersion", "deviceProperties", "ph", "cat", "ts", "dur", "args", "correlation")
MOST_BYTES = 1 << 16


def one(content: bytes) -> None:
    """What must hold of any file."""
    if (trace := read(content)) is not None:
        adds_up(trace)


def main() -> None:
    """Seeds and words of the format, then libFuzzer until something breaks."""
    if len(sys.argv) < 2 or sys.argv[1] not in SEEDS:
        sys.exit(f"usage: {sys.argv[0]} {'|'.join(SEEDS)} [libFuzzer's arguments]")
    form = sys.argv.pop(1)
    with tempfile.TemporaryDirectory() as folder:
        seeds = Path(folder) / "seeds"
        seeds.mkdir()
        for name in SEEDS[form]:
            (seeds / name).write_bytes(WHOLE[name])
        words = [*(word.encode() for word in (*CATEGORIES, *NAMES, *KEYS)), *MARKS]
        escaped = ("".join(f"\\x{byte:02x}" for byte in word[:64]) for word in words)
        (Path(folder) / "words").write_text("".join(f'"{word}"\n' for word in escaped))
        limits = [f"-dict={folder}/words", f"-max_len={MOST_BYTES}", "-timeout=20", "-rss_limit_mb=2000"]
        atheris.Setup([sys.argv[0], *limits, *sys.argv[1:], str(seeds)], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
