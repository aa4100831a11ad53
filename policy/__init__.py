"""The policy pack: what a team holds its stacks to, beyond what cannot work.

The rules (`rules.py`) are pure functions over resources and import neither Pulumi nor the program. `__main__.py` hands
them to Pulumi's engine; `python -m ops check` and `python -m ops policy` call them themselves.
"""
