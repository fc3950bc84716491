"""Settings that all tests share."""

import gzip
import signal
from pathlib import Path

import numpy as np
import pytest
from commands import flowers, no_pictures, own_folder, table  # noqa: F401  (fixtures)
from hypothesis import HealthCheck, settings
from simulated import gpu, racing, way  # noqa: F401  (fixtures)

# Deterministic, so that a failure in one run is a failure in every run; kernels that compile on
# first use make the first example of a test slow, so there is no deadline.
settings.register_profile(
    "fastbp",
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("fastbp")

ROOT = Path(__file__).parents[1]
HOUSING = ROOT / "examples" / "data" / "california_housing.csv.gz"


@pytest.fixture(scope="session")
def housing():
    """California housing as (X, y)."""
    with gzip.open(HOUSING, "rt") as file:
        table = np.loadtxt(file, delimiter=",", skiprows=1)
    return table[:, :8], table[:, 8]


@pytest.fixture
def small():
    """A small regression problem: X (50, 3), y (50,)."""
    rng = np.random.default_rng(7)
    X = rng.normal(size=(50, 3))
    return X, np.sin(X[:, 0]) + 0.5 * X[:, 1]


@pytest.fixture
def ctrl_c_works():
    """A shell's background jobs are started with SIGINT ignored; here it shall arrive."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
