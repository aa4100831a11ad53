"""What the team's workflows do: which stacks a commit changes, short-lived cloud keys, comments and issues."""
