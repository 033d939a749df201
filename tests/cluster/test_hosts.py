"""The hosts of these tests share nothing but the network."""

from tests.cluster.conftest import Cluster, serve_git


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
