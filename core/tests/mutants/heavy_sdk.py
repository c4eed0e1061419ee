"""A library that takes its time to import, as those of large services do."""

import time

_until = time.process_time() + 0.3
while time.process_time() < _until:
    pass
