"""``python -m treadle._cli``: the command, for an interpreter whose scripts are not on the path."""

from treadle._cli import main

if __name__ == "__main__":
    main()
