"""Measurements of the program, each a ratio inside one run, so that the machine's speed cancels out."""
