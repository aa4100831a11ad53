"""From a stack file to resources: the typed config, and one builder per cloud. A cloud's differences live here."""
