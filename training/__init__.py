"""How `lmx-demo` is made: the data, the training, and the score. Not part of the installed package."""

import ctypes
import os
import sys

# Before anything imports mlx: OpenBLAS makes its CPU back end twenty times as fast.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "2")
if sys.platform == "linux":
    try:
        ctypes.CDLL("libopenblas.so.0", ctypes.RTLD_GLOBAL)
    except OSError:
        print("libopenblas.so.0 is missing: scoring would take an hour; run: make test-system", file=sys.stderr)
