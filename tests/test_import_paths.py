"""Import paths of version 0.1.0, before the package was divided into folders: user code keeps working.

The list is literal on purpose: it is what scripts and notebooks contain.
"""

import ast
import importlib
import importlib.util
import re
from pathlib import Path

import pytest

import lcnumba

ROOT = Path(__file__).resolve().parents[1]

NAMES = (
    "SGD", "Activation", "Adam", "AdamW", "Dense", "Dropout", "Flatten", "Gradients", "History", "LocallyConnected1D",
    "LocallyConnected2D", "LocallyConnected3D", "RMSprop", "Sequential", "Tuning", "export_weights",
    "import_weights", "kernel_mask_from", "load", "load_keras", "load_keras_weights", "save_keras_weights", "tune",
)  # fmt: skip

# The documented namespaces, and what each of them listed.
NAMESPACES = {
    "activations": (
        "ELU GELU SELU Activation Exponential HardSigmoid LeakyReLU Linear LogSoftmax Mish ReLU ReLU6 Sigmoid "
        "Softmax Softplus Softsign Swish Tanh ThresholdedReLU get"
    ),
    "callbacks": (
        "CSVLogger Callback Checkpoint EarlyStopping LearningRate Progress ReduceLROnPlateau TerminateOnNaN "
        "figures_text"
    ),
    "constraints": "MaxNorm MinMaxNorm NonNeg UnitNorm get",
    "estimators": "LocallyConnectedClassifier LocallyConnectedRegressor",
    "gradients": "Accumulator add clip_by_norm clip_by_value global_norm",
    "initializers": (
        "Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity Initializer LecunNormal LecunUniform "
        "Ones Orthogonal RandomNormal RandomUniform TruncatedNormal VarianceScaling Zeros fans_of get"
    ),
    "losses": (
        "BinaryCrossentropy CategoricalCrossentropy Huber Masked MeanAbsoluteError MeanSquaredError "
        "SoftmaxCrossEntropy SparseCategoricalCrossentropy get takes_weights"
    ),
    "metrics": "AUC accuracy binary_accuracy get mae mse",
    "optimizers": "SGD Adam AdamW BuiltIn Optimizer RMSprop default_rate get is_built_in prepare run",
    "plotting": "bias_map filters_by_position receptive_field saliency training_curve weight_norm_map",
    "protocol": "Layer Pullback leaves lost_weights note_step",
    "reference": "backward forward output_size",
    "regularizers": "L1 L1L2 L2 Regularizer get",
    "schedules": "CosineDecay ExponentialDecay Schedule StepDecay",
    "testing": "PROBLEMS Problem adjoint_sums integers numerical_gradient",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_the_package(name):
    assert name in lcnumba.__all__
    assert getattr(lcnumba, name) is not None


@pytest.mark.parametrize("module", NAMESPACES)
def test_namespaces(module):
    if module == "estimators":
        pytest.importorskip("sklearn")
    found = importlib.import_module(f"lcnumba.{module}")
    assert getattr(lcnumba, module) is found
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.filters", [("ignore", None, DeprecationWarning, None, 0)])
        missing = [name for name in NAMESPACES[module].split() if not hasattr(found, name)]
    assert not missing


def imports_of_the_pages():
    """Yield the statements that import from this package in the README, the pages and the examples."""
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "gallery").glob("*.py")):
        for statement in re.findall(r"^\s*((?:from lcnumba|import lcnumba)[^\n]*)", path.read_text(), re.MULTILINE):
            yield statement.partition("#")[0].strip()


def test_imports_of_the_pages():
    # Those of version 0.1.0; and those of today, which may be more.
    before = {
        "import lcnumba as lc",
        "from lcnumba.estimators import LocallyConnectedClassifier",
        "from lcnumba.losses import SoftmaxCrossEntropy",
        "from lcnumba.testing import numerical_gradient",
    }
    pytest.importorskip("sklearn")
    bridges = {f"lcnumba.{name}" for name in lcnumba._BRIDGES}  # frameworks/test_pages.py runs the pages about them
    for statement in sorted(before | set(imports_of_the_pages())):
        [node] = ast.parse(statement).body
        if not bridges.isdisjoint(
            [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
        ):
            continue
        if isinstance(node, ast.Import):
            assert [importlib.import_module(alias.name) for alias in node.names]
        else:
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names), statement


def test_the_command_line_is_a_module():
    assert importlib.util.find_spec("lcnumba.__main__") is not None
