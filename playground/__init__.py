"""Try every way to adapt a GenAI model, and see one live, measured comparison."""

import os

__version__ = "0.1.0"

# Read once, when torch loads its OpenMP library: threads that wait spin briefly, then sleep. Two threads that never
# spin are no faster than one on idle cores (a training step 0.9 s, not 0.55), and with the library's own 300,000
# turns six times slower than one on a core that other work shares (with 3,000: twice).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
