"""A real server of the S3 protocol on a free loopback port, for one test module."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def s3_bucket(name: str) -> Iterator[dict[str, str]]:
    """A fresh bucket; yields the environment by which it is reached. Stopped at the end."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "2",
            "NO_PROXY": "127.0.0.1",
        }
        boto3.client(
            "s3",
            endpoint_url=environment["AWS_ENDPOINT_URL"],
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
            region_name="us-east-1",
        ).create_bucket(Bucket=name)
        yield {**environment, "HETERREC_STORE": f"s3://{name}/workspace"}
    finally:
        server.stop()
