"""Clocks that are set under programs that run: libfaketime, told by a file. Monotonic clocks go on as they did."""

from __future__ import annotations

from pathlib import Path

LIBRARIES = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/local/lib/faketime/libfaketimeMT.so.1")
NOTICED_S = 1.0  # within which a program takes note of the file


def library() -> Path:
    """Raises `AssertionError` with what to do where there is none."""
    found = [path for pattern in LIBRARIES for path in Path("/").glob(pattern.removeprefix("/"))]
    assert found, "libfaketime is not here: run scripts/prepare-test-servers faketime"
    return found[0]


def environment(file: Path | str, preload: Path | str | None = None) -> dict[str, str]:
    """For a program whose clock `set_clock(file, …)` sets. `preload`: the library, where it sees that elsewhere."""
    return {
        "LD_PRELOAD": str(preload or library()),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


def set_clock(file: Path, ahead_s: float) -> None:
    """Set it so far ahead of the true time, or behind."""
    new = file.with_suffix(".new")
    new.write_text(f"{ahead_s:+.3f}s\n")
    new.rename(file)
