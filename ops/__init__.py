"""`python -m ops …`: what people and scripts ask about a stack. Exit 0 fine, 1 the thing is wrong, 2 the request is."""
