"""Needs what is not there."""

import treadle_zoo_absent  # noqa: F401 - the import that cannot work is all there is to this module
