"""The order of the campaigns."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest one, beside which another worker does the rest."""
    items.sort(key=lambda item: item.path.name != "test_newcomer.py")
