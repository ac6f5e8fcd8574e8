"""Ray: connect, tasks, DDP, nodes, the folder of a run."""
