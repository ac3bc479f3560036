"""The README's example runs as written."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    if not README.exists():
        pytest.skip("the README is in the checkout only")
    # frameworks/test_pages.py runs the second block, which imports frameworks.
    code, _ = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code, str(README), "exec"), names)  # noqa: S102 - that is the test
    assert names["model"].output_shape == (None, 10)
    assert len(names["history"].history["loss"]) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"model.npz", "run.npz"}
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 1e6, "the example leaves small files"
    capsys.readouterr()
    exec(compile(code, str(README), "exec"), {})  # noqa: S102
    assert f"nothing left to do: all 2 epochs are done in '{tmp_path}/run.npz'" in capsys.readouterr().err
