"""What an evaluation leaves: rows, their means, and how sure these are."""
