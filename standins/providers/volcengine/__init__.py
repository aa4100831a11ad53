"""Stand-in for the official `volcengine` Pulumi plugin: TOS buckets and IAM users, in a cloud that is a folder.

Owns the plugin process and its part of that folder. RULES.md lists which behaviour of plugin and cloud is reproduced
and which is left out. Does not own the objects in the buckets: whoever serves the bucket folders over S3 writes those.
"""
