"""Run the command."""

from jobs.fuse.run import main

if __name__ == "__main__":
    main()
