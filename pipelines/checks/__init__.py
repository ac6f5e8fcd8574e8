"""What is wrong with source pictures: damage, depth, poor targets, leaks between splits."""
