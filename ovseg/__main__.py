"""`python -m ovseg` is `ovseg`."""

from ovseg.cli import main

if __name__ == "__main__":
    main()
