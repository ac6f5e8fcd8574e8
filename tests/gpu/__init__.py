"""What only a GPU can show: run on a borrowed machine by `lease.sh`, skipped elsewhere."""
