"""Run the command line as `python -m lulc_lib`."""

from lulc_lib.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
