"""What docs/data.md shows is executed: its Python blocks run one after another, in one namespace."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentrl import Demonstrations

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


@pytest.mark.filterwarnings("ignore::UserWarning")  # Minari wants to know more about the author
def test_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("minari", reason="the extra 'minari' is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    namespace: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, "data.md", "exec"), namespace)
    assert namespace["shown"].episode_lengths.tolist() == [200] * 3
    assert namespace["practised"].episode_lengths.tolist() == [200, 100]
    np.testing.assert_array_equal(namespace["again"].observations, namespace["shown"].observations)
    assert namespace["same"].num_episodes == 2
    assert len(namespace["rows"]) == 3


def test_every_reader_is_listed() -> None:
    readers = {name for name in dir(Demonstrations) if name.startswith("from_")}
    assert set(re.findall(r"`(from_\w+)\(", PAGE.read_text())) == readers
