"""Run the command."""

from jobs.generate.run import main

if __name__ == "__main__":
    main()
