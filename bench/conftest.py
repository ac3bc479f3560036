"""Test selection of ``pytest bench/``: a small subset, unless -k, -m or --everything is given."""

import pytest

# Marker of the default subset; see test_speed.py.
_MODEST = "modest"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --everything."""
    parser.addoption("--everything", action="store_true", help="run all benchmarks, not only the default subset")


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers."""
    config.addinivalue_line("markers", f"{_MODEST}: runs by default")
    for marker in ("forward", "backward", "step", "fused"):
        config.addinivalue_line("markers", f"{marker}: times this operation")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect all but the default subset if nothing was selected."""
    selected = config.getoption("everything") or config.getoption("keyword") or config.getoption("markexpr")
    # Tests selected by node id are run, too.
    if selected or any("::" in argument for argument in config.args):
        return
    left_out = [item for item in items if "test_speed" in item.nodeid and item.get_closest_marker(_MODEST) is None]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]
