"""``python -m cgptc`` and the ``cgptc`` script."""

from __future__ import annotations


def main() -> None:
    """Run the command line and exit with its code."""
    from cgptc.cli.entry import main as run

    run()


if __name__ == "__main__":
    main()
