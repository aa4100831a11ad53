"""What fills a bucket, a volume or a node's disk with a model's files.

In a ModelSync's Job out of a hub; in the pods of an engine out of a bucket. Shipped as a ConfigMap, so: Python's
standard library only, relative imports only. Bytes are moved by rclone; here is what to move, whether it arrived, and
what to do when it did not.
"""
