"""What several tests share. No test in it asserts a promise of the program."""
