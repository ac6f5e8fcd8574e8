"""python -m jobs: the commands there are, a line each."""

from jobs.commands import command_names, summary_of
from jobs.console import print_facts, print_line


def main() -> None:
    """Print them."""
    print_line("python -m jobs.COMMAND, and --help after it:")
    print_facts({name: summary_of(name) for name in command_names()})


if __name__ == "__main__":
    main()
