"""The README fits on a few screens, and its example runs as written."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
if not README.exists():
    pytest.skip("the README is in the checkout only", allow_module_level=True)


def test_the_example_runs(tmp_path, monkeypatch):
    # frameworks/test_pages.py runs the second block, which imports frameworks.
    code, _ = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code, str(README), "exec"), names)  # noqa: S102 - that is the test
    assert names["model"].output_shape == (None, 10)
    assert len(names["history"].history["val_loss"]) == 2
    assert names["dx"].shape == (8, 12, 12, 3)
    [path] = tmp_path.iterdir()
    assert path.name == "model.npz"
    assert path.stat().st_size < 1e6, "the example leaves a small file"


def test_the_length():
    assert len(README.read_text().splitlines()) <= 100
