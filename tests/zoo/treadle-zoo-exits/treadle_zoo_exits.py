"""Its import prints, on every road there is, and ends the process."""

import os
import sys

print('{"why": "a print on the channel of the answers"}')
os.write(1, b'{"why": "and one below Python"}\n')
sys.exit(3)
