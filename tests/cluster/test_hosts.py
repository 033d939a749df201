"""The hosts of these tests share nothing, and Ray continues without one of them."""

import json
import time

from tests.cluster.conftest import Cluster, RayCluster, serve_git
from tests.harness import BUCKET

COUNT = 24
JOB = """
import json, socket, sys, time

import ray

address, bucket, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
ray.init(address, log_to_driver=False)


@ray.remote(max_retries=-1)
def put(number):
    import botocore.session
    time.sleep(1)
    botocore.session.Session().create_client("s3").put_object(
        Bucket=bucket, Key=f"done/{number}", Body=socket.gethostname().encode()
    )
    return number


print(json.dumps(ray.get([put.remote(number) for number in range(count)])))
"""
LIST = f"""
import botocore.session, json
s3 = botocore.session.Session().create_client("s3")
found = s3.list_objects_v2(Bucket={BUCKET!r}, Prefix="done/").get("Contents", [])
keys = [entry["Key"] for entry in found]
bodies = [s3.get_object(Bucket={BUCKET!r}, Key=key)["Body"].read().decode() for key in keys]
print(json.dumps(dict(zip(keys, bodies))))
"""


def test_hosts_share_the_network_alone(cluster: Cluster) -> None:
    one, two = cluster.add_host(), cluster.add_host()
    one.run("touch", "mine", "/dev/shm/mine")
    for folder in ("/tmp", "/dev/shm"):
        assert "mine" in one.run("ls", folder)
        assert "mine" not in two.run("ls", folder)
    assert [host.run("hostname") for host in (one, two)] == ["host1\n", "host2\n"]
    assert len(one.run("ps", "-e", "--no-headers").splitlines()) < 5

    address = serve_git(cluster)
    script = (
        "git init -qb main w && cd w && git -c user.name=a -c user.email=a@localhost "
        f"commit -q --allow-empty -m first && git push -q {address} main"
    )
    one.run("sh", "-c", script)
    two.run("git", "clone", "--quiet", address, "w")
    assert two.run("git", "-C", "w", "log", "--format=%s") == "first\n"


def test_ray_continues_without_a_host(ray_cluster: RayCluster) -> None:
    head, worker = ray_cluster.head, ray_cluster.worker
    head.write("job.py", JOB)
    job = head.start("python", "job.py", ray_cluster.address, BUCKET, str(COUNT))

    def done() -> dict[str, str]:
        return json.loads(head.run("python", "-c", LIST))

    while sum(host == worker.name for host in done().values()) < 2:
        assert job.poll() is None, head.log()
        time.sleep(0.2)
    worker.kill()
    assert job.poll() is None, head.log()
    assert len(done()) < COUNT

    assert job.wait(120) == 0, head.log()
    found = done()
    assert sorted(found, key=lambda key: int(key[5:])) == [f"done/{i}" for i in range(COUNT)]
    assert set(found.values()) == {head.name, worker.name}
    assert json.dumps(list(range(COUNT))) in head.log()
