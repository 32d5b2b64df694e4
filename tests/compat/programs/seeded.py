"""A pytest plugin: every test starts with the same random numbers. One of them is a game of chance
otherwise: it updates 100 random records out of 100 and expects three certain ones among them."""

import numpy as np
import pytest

SEED = 3


@pytest.fixture(autouse=True)
def same_random_numbers():
    np.random.seed(SEED)  # noqa: NPY002 - it is what the tests of the client draw from
