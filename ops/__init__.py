"""`python -m ops …`: commands about a stack, for people and scripts. Exit code 0: fine; 1: the stack is not; 2: the
request is wrong."""
