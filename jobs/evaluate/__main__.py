"""Run the command."""

from jobs.evaluate.run import main

if __name__ == "__main__":
    main()
