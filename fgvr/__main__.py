"""`python -m fgvr`: the same as the command `fgvr`."""

from fgvr.commands import main

if __name__ == "__main__":
    raise SystemExit(main())
