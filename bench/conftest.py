"""What ``pytest bench/`` runs: a modest part, unless -k, -m or --everything ask for another."""

import pytest

# Only these by default; see test_speed.py.
_MODEST = "modest"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that runs all."""
    parser.addoption("--everything", action="store_true", help="run all benchmarks, not only the modest ones")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers by which to select."""
    config.addinivalue_line("markers", f"{_MODEST}: runs by default")
    for marker in ("forward", "backward", "step", "fused"):
        config.addinivalue_line("markers", f"{marker}: times this operation")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the others out where nothing was selected."""
    asked = config.getoption("everything") or config.getoption("keyword") or config.getoption("markexpr")
    # A test that was named one by one is wanted, too.
    if asked or any("::" in argument for argument in config.args):
        return
    left_out = [item for item in items if "test_speed" in item.nodeid and item.get_closest_marker(_MODEST) is None]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]
