"""Does the policy that docs/fleet.md shows let a host add to its own partition, and to no other's?"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from energyd.store.lake import LakeRefused, address
from energyd.store.lake_files import open_lake
from fleet.conftest import ROOT, await_port, free_port


@pytest.fixture(scope="module")
def keys() -> Iterator[dict[str, str]]:
    """Those of host h0, at an S3 server that asks for them and keeps to the policy."""
    import boto3

    policy = re.search(r"```json\n(.*?)```", (ROOT / "docs" / "fleet.md").read_text(), re.DOTALL)
    assert policy is not None
    json.loads(policy[1])
    port = free_port()
    quiet = subprocess.DEVNULL
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=quiet, stderr=quiet)
    try:
        await_port("127.0.0.1", port)
        url = f"http://127.0.0.1:{port}"
        root = {"endpoint_url": url, "aws_access_key_id": "a", "aws_secret_access_key": "b",
                "region_name": "us-east-1"}  # fmt: skip
        boto3.client("s3", **root).create_bucket(Bucket="energy")
        iam = boto3.client("iam", **root)
        iam.create_user(UserName="h0")
        iam.put_user_policy(UserName="h0", PolicyName="own", PolicyDocument=policy[1])
        key = iam.create_access_key(UserName="h0")["AccessKey"]
        asks = urllib.request.Request(  # from now on it asks everybody who he is
            f"{url}/moto-api/reset-auth", data=b"0", headers={"Content-Type": "text/plain"}
        )
        urllib.request.urlopen(asks, timeout=30).close()
        yield {
            "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"], "AWS_REGION": "us-east-1",
        }  # fmt: skip
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "16.parquet"
    found.write_bytes(b"PAR1")
    return found


def test_a_host_adds_to_its_own_partition_and_says_who_it_is(keys: dict[str, str], file: Path) -> None:
    lake = open_lake(address("s3://energy/fleet"), keys)
    assert lake.put("samples/host=h0/day=2025-11-24/16.parquet", file)
    assert not lake.put("samples/host=h0/day=2025-11-24/16.parquet", file)
    lake.tell("hosts/host=h0.json", "{}")
    assert lake.read("hosts/host=h0.json") == b"{}"


@pytest.mark.parametrize("key", ["samples/host=h1/day=2025-11-24/16.parquet", "hosts/host=h1.json"])
def test_it_cannot_add_to_anothers(keys: dict[str, str], file: Path, key: str) -> None:
    lake = open_lake(address("s3://energy/fleet"), keys)
    with pytest.raises(LakeRefused, match="not for this host's partition"):
        lake.put(key, file)


def test_a_wrong_secret_is_refused_and_not_shown(keys: dict[str, str], file: Path) -> None:
    lake = open_lake(address("s3://energy/fleet"), keys | {"AWS_SECRET_ACCESS_KEY": "hush-hush"})
    with pytest.raises(LakeRefused, match="the credentials are wrong") as told:
        lake.put("samples/host=h0/day=2025-11-24/17.parquet", file)
    assert "hush" not in str(told.value)
    assert len(str(told.value).splitlines()) <= 3
