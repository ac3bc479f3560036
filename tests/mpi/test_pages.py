"""The code of the page on several machines runs as it is written, but for its size."""

import re
from pathlib import Path

import pytest
from launcher import need_mpi, run

import lcnumba as lc

need_mpi()

PAGE = Path(__file__).resolve().parents[2] / "docs" / "distributed.md"
if not PAGE.exists():
    pytest.skip("docs/ is in the checkout only", allow_module_level=True)

BEFORE = """
import numpy as np
x, y = (np.random.default_rng(seed).standard_normal((16, 12, 10, 8), np.float32) for seed in (0, 1))
"""


def test_the_page(tmp_path, monkeypatch):
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert "(None, 721, 1440, 8)" in code
    script = tmp_path / "train.py"
    script.write_text(BEFORE + code.replace("721, 1440", "12, 10"))
    monkeypatch.chdir(tmp_path)
    run(script, ranks=3)
    assert lc.load("model.npz").count_params() == lc.load("run.npz").count_params()
