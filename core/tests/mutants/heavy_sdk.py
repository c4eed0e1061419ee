"""A library that takes its time to import, as those of large services do."""

import sys
import time

_so_far = time.process_time()  # where it is measured: what starting Python and importing treadle took
_until = _so_far + (0.3 if "pytest" in sys.modules else max(0.3, 3 * _so_far))
while time.process_time() < _until:
    pass
