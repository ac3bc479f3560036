"""The examples of the documentation run, and come to what they say."""

import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "examples"
if not FOLDER.is_dir():
    pytest.skip("docs/ is in the checkout only", allow_module_level=True)


def test_lbfgs(capsys):
    figures = runpy.run_path(str(FOLDER / "lbfgs.py"))["main"]()
    assert figures["after"] < 0.1 * figures["before"]
    assert figures["right"] > 0.98
    assert "connections right" in capsys.readouterr().out
