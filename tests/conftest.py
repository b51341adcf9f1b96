"""Fixtures shared by all tests: one tiny world, rendered once."""
import pytest

from mcl.data import load_dataset
from mcl.images import open_stores


@pytest.fixture(scope='session')
def worlds(tmp_path_factory):
    return tmp_path_factory.mktemp('worlds')


@pytest.fixture(scope='session')
def tiny(worlds):
    return load_dataset('pedworld-tiny', root=worlds)


@pytest.fixture(scope='session')
def tiny_stores(tiny):
    return open_stores(tiny, (64, 32), progress=False)
