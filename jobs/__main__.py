"""python -m jobs: the commands there are, a line each."""

from jobs.commands import command_names, summary_of
from jobs.console import facts, say


def main() -> None:
    """Print them."""
    say("python -m jobs.COMMAND, and --help after it:")
    facts({name: summary_of(name) for name in command_names()})


if __name__ == "__main__":
    main()
