"""`python -m signs`: the same as the command `signs`."""

from signs.cli import main

if __name__ == "__main__":
    main()
