"""The command `mcl`, and `python -m mcl`."""

import sys


def main() -> None:
    "Run the command. Ctrl-C while it is still being loaded is one line, too."
    try:
        from mcl.cli import main as command
    except KeyboardInterrupt:
        print('mcl: interrupted before it began', file=sys.stderr)
        sys.exit(130)
    command()


if __name__ == '__main__':
    main()
