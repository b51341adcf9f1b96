"""The command `mcl`, and `python -m mcl`."""

import os
import sys
from contextlib import suppress

INTERRUPTED = 130  # status of a program that Ctrl-C has ended


def leave(status: int) -> None:
    """End the process without the interpreter's last steps: threads of other libraries, interrupted in the
    middle of their work, can crash in them.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a pipe that nobody reads, a stream that is closed
            stream.flush()
    os._exit(status)


def main() -> None:
    "Run the command. Ctrl-C while it is still being loaded is one line, too."
    try:
        from mcl.cli import main as command
    except KeyboardInterrupt:
        print('mcl: interrupted before it began', file=sys.stderr)
        sys.exit(INTERRUPTED)
    try:
        command()
    except SystemExit as ending:
        if ending.code == INTERRUPTED:
            leave(INTERRUPTED)
        raise


if __name__ == '__main__':
    main()
