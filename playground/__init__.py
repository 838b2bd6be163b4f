"""Try every way to adapt a GenAI model, and see one live, measured comparison."""

import os

__version__ = "0.1.0"

# Read once, when torch loads its OpenMP library: threads that wait sleep instead of spinning. On cores that
# other work shares, spinning made two threads ten to twenty times slower than one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
