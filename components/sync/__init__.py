"""What runs in a ModelSync's Job: fills one prefix of a bucket with a model's files out of a hub.

Shipped as a ConfigMap, so: Python's standard library only, relative imports only. Bytes are moved by rclone; here is
what to move, whether it arrived, and what to do when it did not.
"""
