"""The code of the page on several machines runs as it is written, but for its size."""

import re
import runpy
import shutil
from pathlib import Path

import pytest
from launcher import need_mpi, run

import lcnumba as lc

need_mpi()

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "distributed.md"
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


def test_the_example_of_the_gallery(tmp_path, monkeypatch, capsys):
    """Both runs write the same bytes, and the local layers learn what a convolution cannot."""
    pytest.importorskip("matplotlib")
    for name in ("plot_two_ranks.py", "global_field.py"):
        shutil.copy(DOCS / "gallery" / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path("plot_two_ranks.py")
    assert names["equal"]
    printed = capsys.readouterr().out
    assert "weights on 1 rank\n" in printed
    assert "weights on 2 ranks\n" in printed
    nothing, convolution, local = names["errors"].values()
    assert local < 0.2 * nothing
    assert local < 0.3 * convolution
    names["temporary"].cleanup()
