#!/usr/bin/env python3
"""Start DeepMedic from a checkout: `python deepmedic_run.py ...`, the same as the installed command `deepmedic`."""

from deepmedic.cli import command

if __name__ == "__main__":
    command()
