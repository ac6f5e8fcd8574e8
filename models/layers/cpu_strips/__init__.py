"""The same layers on a CPU, strip by strip of rows: exact, in less memory."""
