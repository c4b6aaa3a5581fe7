"""For every test: one thread for each process, so that tests run side by side and sums do not depend on the machine."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported
