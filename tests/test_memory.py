"""How much memory there is, as the system tells it."""

from pathlib import Path

import pytest

from latentrl import memory

MACHINE = "MemTotal:       24000 kB\nMemAvailable:   20000 kB\n"


@pytest.mark.parametrize(
    ("machine", "limit", "used", "expected"),
    [
        (MACHINE, None, None, 20000 * 1024),
        (MACHINE, "max", "500", 20000 * 1024),
        (MACHINE, "9000000", "500", 8999500),
        (MACHINE, "500", "9000", 0),
        (MACHINE, "90000000", "500", 20000 * 1024),
        ("MemTotal:       24000 kB\n", None, None, None),
        (None, "9000000", "500", None),
    ],
)
def test_available_memory(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    machine: str | None,
    limit: str | None,
    used: str | None,
    expected: int | None,
) -> None:
    for name, text in (("meminfo", machine), ("memory.max", limit), ("memory.current", used)):
        if text is not None:
            (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "MACHINE", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    assert memory.available_memory() == expected
