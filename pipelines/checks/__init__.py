"""What is wrong with a source picture: damaged, of another depth, a poor target, out of register."""
