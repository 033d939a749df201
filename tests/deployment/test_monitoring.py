"""deployment/monitoring: the dashboard asks for what the service counts, and all parts fit."""

import json
import math
import re
import shutil
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import DIRECT, Server, photo
from tests.harness import ROOT, free_port, wait_until
from tests.harness import Server as Program

FOLDER = ROOT / "deployment/monitoring"
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
PROMETHEUS = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
PANELS = DASHBOARD["panels"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
DOCKERFILE = (ROOT / "containers/Dockerfile").read_text()
# A series as a query names it, and as /metrics lists it.
SELECTOR = re.compile(r"\b(signs_\w+)(?:\{([^}]*)\})?")
LABEL = re.compile(r'(\w+)=~?"')


@pytest.fixture
def counted(running: Server) -> str:
    """What the service counts after photos that it knows, does not know and cannot read."""
    for content in (photo("Green"), photo("Grey"), b"no photo"):
        running.send(content)
    return bytes(running.ask("/metrics").body).decode()


@pytest.mark.parametrize("query", QUERIES)
def test_the_service_counts_what_the_dashboard_asks_for(query: str, counted: str) -> None:
    asked = SELECTOR.findall(query)
    assert asked or 'up{job="traffic-signs"}' in query
    by = set(re.findall(r"by \((\w+)\)", query))
    for name, conditions in asked:
        series = re.findall(rf"^{name}(?:{{(.*)}})? ", counted, re.MULTILINE)
        assert series, name
        assert {*LABEL.findall(conditions), *by} <= set(LABEL.findall(series[0]))
    for value in re.findall(r'(?:path|prediction|status)="(\w*/?\w+)"', query):
        assert f'="{value}"' in counted


def test_the_dashboard_shows_each_panel_beside_the_others() -> None:
    taken = set()
    for panel in PANELS:
        place = panel["gridPos"]
        columns = range(place["x"], place["x"] + place["w"])
        cells = {(x, y) for x in columns for y in range(place["y"], place["y"] + place["h"])}
        assert max(columns) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["description"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource"]


def test_the_compose_file_is_one_and_its_parts_find_each_other() -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    subprocess.run([*check, FOLDER / "compose.yaml"], check=True)
    services = COMPOSE["services"]
    assert "\nEXPOSE 3000\n" in DOCKERFILE
    assert services["service"]["volumes"] == ["predictions:/monitoring"]
    (job,) = PROMETHEUS["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["service:3000"]}]
    assert f'up{{job="{job["job_name"]}"}}' in QUERIES[0]
    assert all(
        port.startswith("127.0.0.1:") for s in services.values() for port in s.get("ports", [])
    )
    mounted = [volume.split(":") for s in services.values() for volume in s["volumes"]]
    for source, target, *_ in mounted:
        assert target.startswith("/")
        assert source in COMPOSE["volumes"] or (FOLDER / source).exists(), source
    source = yaml.safe_load((FOLDER / "provisioning/datasources/prometheus.yaml").read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    interval = PROMETHEUS["global"]["scrape_interval"]
    assert source["datasources"][0]["jsonData"]["timeInterval"] == interval
    boards = yaml.safe_load((FOLDER / "provisioning/dashboards/dashboards.yaml").read_text())
    path = boards["providers"][0]["options"]["path"]
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert Path(home).parent == Path(path)
    assert home in {target for _, target, *_ in mounted}


def test_the_compose_schema_refuses_a_wrong_key(tmp_path: Path) -> None:
    wrong = COMPOSE | {"services": {"service": {"imagee": "x"}}}
    (tmp_path / "compose.yaml").write_text(yaml.safe_dump(wrong))
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*check, tmp_path / "compose.yaml"], capture_output=True, check=False)
    assert b"imagee" in done.stdout


@pytest.fixture
def prometheus(running: Server, tmp_path: Path) -> Iterator[str]:
    """The address of a real Prometheus with our settings, which asks the service each second."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("needs Prometheus (apt install prometheus)")
    settings = json.loads(json.dumps(PROMETHEUS))
    settings["global"]["scrape_interval"] = "1s"
    target = running.address.removeprefix("http://")
    settings["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(settings))
    port = free_port()
    listen = [f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    server = Program(tmp_path, [program, "--config.file=prometheus.yaml", *listen])
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.kill()


def ask(address: str, query: str) -> list[Any]:
    """What Prometheus finds for a query, with Grafana's variables filled in."""
    filled = query.replace("$__rate_interval", "20s").replace("$__range", "1h")
    parameters = urllib.parse.urlencode({"query": filled})
    with DIRECT.open(f"{address}/api/v1/query?{parameters}", timeout=10) as reply:
        content = json.load(reply)
    assert content["status"] == "success", content
    return list(content["data"]["result"])


def test_prometheus_answers_each_query(prometheus: str, running: Server) -> None:
    def all_have_values() -> bool:
        for content in (photo("Green"), photo("Grey"), b"no photo"):
            running.send(content)
        found = [ask(prometheus, query) for query in QUERIES]
        return all(r and all(math.isfinite(float(s["value"][1])) for s in r) for r in found)

    assert wait_until(all_have_values, 60)
    unknown = next(query for query in QUERIES if query.startswith("sum(rate(signs_predictions"))
    (series,) = ask(prometheus, unknown)
    assert 0.1 < float(series["value"][1]) < 0.9
