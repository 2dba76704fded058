"""The store of a cluster: data, checkpoints and models, in a folder or a bucket, by fsspec."""
