"""The entry point of the `segkit` command: signals first, then the imports, then the command.

Importing the command line takes a fifth of a second, in which Ctrl-C would print a traceback.
"""

from segkit import stopping


def main() -> None:
    """Run the command line; SIGINT ends it with exit code 130 and SIGTERM with 143."""
    stopping.exit_on_signals()

    from .app import main as run

    try:
        run()
    except SystemExit as end:
        end.code = stopping.exit_code(end.code)  # type: ignore[assignment]
        raise


if __name__ == "__main__":
    main()
