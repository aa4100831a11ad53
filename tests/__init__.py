"""The project's tests, in the rooms' order. A package, so that no installed library's `tests` can stand in its way."""
