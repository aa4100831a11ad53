"""Builders: one per cloud, from the typed config and its plans to resources. A cloud's differences live here."""
