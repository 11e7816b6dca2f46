#!/usr/bin/env python3
"""Start DeepMedic from a checkout: `python deepmedic_run.py ...`, the same as the installed command `deepmedic`."""

import sys

from deepmedic.cli import main

if __name__ == "__main__":
    sys.exit(main())
