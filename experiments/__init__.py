"""The application: runs methods on tasks."""

import logging
import os

# Before torch is imported. OpenMP's threads otherwise spin while they wait, and two programs on the
# same cores then spend most of their time on that: a small model trained beside another job took
# sixteen times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# PEFT imports bitsandbytes wherever it is installed, and that advises on faster kernels each time.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
