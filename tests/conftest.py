"""Hypothesis profiles: dev by default, ci when the environment says CI, soak on demand."""

import os

from hypothesis import HealthCheck, settings

# Workers share the cores, and a thread of BLAS that waits for a busy one spins.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# No deadline and no complaint about slow generation: a busy machine is not a defect.
_PATIENT = settings(
    deadline=None,
    derandomize=False,  # said aloud: under CI the library's own default is True, for soak as well
    suppress_health_check=[HealthCheck.too_slow],
)

settings.register_profile("dev", _PATIENT, max_examples=50)
settings.register_profile("ci", _PATIENT, max_examples=300, derandomize=True, print_blob=True)
settings.register_profile("soak", _PATIENT, max_examples=5_000, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")
