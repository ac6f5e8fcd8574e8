"""Run the command."""

from jobs.submit.run import main

if __name__ == "__main__":
    main()
