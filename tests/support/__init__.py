"""Helpers that several tests share. The tests in here check these helpers, not the program."""
