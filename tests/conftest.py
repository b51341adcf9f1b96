"""Fixtures shared by all tests: one tiny world, rendered once; and the options of the random tests."""
import bounds
import pytest

from mcl.data import load_dataset
from mcl.images import open_stores


def pytest_addoption(parser):
    whole = dict(type=int, metavar='N')
    parser.addoption('--fuzz-examples', help='random inputs for each command, see test_fuzz.py', **whole)
    parser.addoption('--kills', help='random moments to kill each command, see test_kills.py', **whole)


def pytest_configure(config):
    bounds.EXAMPLES, bounds.KILLS = config.getoption('--fuzz-examples'), config.getoption('--kills')


@pytest.fixture(scope='session')
def worlds(tmp_path_factory):
    return tmp_path_factory.mktemp('worlds')


@pytest.fixture(scope='session')
def tiny(worlds):
    return load_dataset('pedworld-tiny', root=worlds)


@pytest.fixture(scope='session')
def tiny_stores(tiny):
    return open_stores(tiny, (64, 32), progress=False)
