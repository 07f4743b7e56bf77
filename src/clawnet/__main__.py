"""`python -m clawnet` is `claw`."""

import sys

from clawnet.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
