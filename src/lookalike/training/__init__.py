"""Label-free training; the only part that needs torch."""

import os

# OpenMP's threads, where they wait for each other, spin unless told not to. On a machine that does
# anything else, the one that is waited for then gets no core: steps took twice as long.
# Read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
