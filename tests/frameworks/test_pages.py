"""The pages about frameworks, each in a process and an empty folder of its own, as a user runs them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "tests" / "data" / "keras"


def run(page, folder, before="", after=""):
    """Run the blocks of a page as one program; return what it prints."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert blocks
    (folder / "page.py").write_text("\n".join([before, *blocks, after]))
    command = [sys.executable, "-P", "-W", "error::UserWarning", "page.py"]
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.mark.parametrize("page", ["torch.md", "jax.md"])
def test_the_digits_are_learned(page, tmp_path):
    accuracy = float(re.search(r"accuracy ([\d.]+)%", run(page, tmp_path))[1])
    assert accuracy > 80


@pytest.mark.parametrize("backend", ["jax", "torch", "tensorflow"])
def test_keras(backend, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", backend)
    shutil.copy(FILES / "branches.h5", tmp_path / "old.h5")
    with np.load(FILES / "more_predictions.npz") as file:
        np.savez(tmp_path / "data.npz", x=file["branches_x"], y=file["branches_y"])
    given = "import numpy as np\ndata = np.load('data.npz')\nx, y = data['x'], data['y']\n"
    check = "assert np.allclose(load_model('old.h5').predict(x, verbose=0), y, atol=1e-5)"
    printed = run("keras3.md", tmp_path, given, check)
    assert float(re.search(r"accuracy ([\d.]+)%", printed)[1]) > 80
    assert (tmp_path / "new.keras").is_file()


def test_the_frameworks_of_the_gallery(tmp_path):
    """They agree to the bit, and train alike; the convolution beside them learns faster."""
    pytest.importorskip("matplotlib")
    check = """
assert all(equal.values()), equal
(losses, accuracy), *others, (of_convolution, its_accuracy) = results.values()
for name, (other, found) in list(results.items())[1:4]:
    assert np.allclose(other, losses, rtol=1e-3), name
    assert abs(found - accuracy) < 0.01, name
assert of_convolution[-1] < losses[-1] and its_accuracy >= accuracy
"""
    program = tmp_path / "program.py"
    program.write_text((ROOT / "docs" / "gallery" / "plot_frameworks.py").read_text() + check)
    subprocess.run([sys.executable, "-P", program], cwd=tmp_path, check=True, timeout=300)


def test_the_imports_of_the_readme():
    _, code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    subprocess.run([sys.executable, "-c", code], check=True)


def test_onnx(tmp_path):
    run("onnx.md", tmp_path)
    assert (tmp_path / "model.onnx").is_file()
    assert (tmp_path / "net.onnx").is_file()
