"""Make a bucket in the object store that AWS_ENDPOINT_URL_S3 names; fine where it is there
already.
"""

import sys

import boto3

NAME = sys.argv[1]
store = boto3.client("s3")
if NAME not in {each["Name"] for each in store.list_buckets()["Buckets"]}:
    store.create_bucket(Bucket=NAME)
