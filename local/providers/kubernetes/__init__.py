"""Stand-in for the official `kubernetes` Pulumi plugin: the same resources, texts and waits against a real API server.

Owns the plugin process. RULES.md lists which behaviour of the official plugin is kept and which is left out.
Does not own Helm releases and charts, yaml ConfigGroup and ConfigFile, kustomize, *Patch resources, client-side apply,
rendering to a folder, schemas: the program does not use them.
"""
