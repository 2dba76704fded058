"""Create a bucket in the object store at AWS_ENDPOINT_URL_S3 unless it exists: bucket.py NAME."""

import sys

import boto3

name = sys.argv[1]
client = boto3.client("s3")
if name not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
    client.create_bucket(Bucket=name)
