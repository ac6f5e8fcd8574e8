"""Run the command."""

from jobs.train.run import main

if __name__ == "__main__":
    main()
