"""Stand-in for the official `alicloud` Pulumi plugin: OSS buckets and RAM users, in a cloud that is a folder.

Owns the plugin process and that folder. RULES.md lists which behaviour of plugin and cloud is reproduced and which is
left out. Does not own the objects in the buckets: whoever serves the bucket folders over OSS's protocol writes those.
"""
