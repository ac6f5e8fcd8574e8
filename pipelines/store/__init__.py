"""Whole files, folders by URI, names, and seeds with an address."""
