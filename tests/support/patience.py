"""How long a test waits for another process or thread."""

PATIENCE_SECONDS = 180
"""After this a test calls it stuck. It bounds a hang and says nothing of speed, so it suits a machine that is ten times
slower than usual."""
