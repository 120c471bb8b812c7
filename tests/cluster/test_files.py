"""The files of `cluster/` are what Ray and rtk take, and agree with each other."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

import rtk
from rtk.cli import _parse, main
from rtk.deploy.serving.access import TOKEN
from rtk.deploy.serving.app import OPEN
from rtk.deploy.serving.server import END_SECONDS

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
LAUNCHERS = sorted(CLUSTER.glob("*.yaml"))
FILES = [*LAUNCHERS, *sorted(CLUSTER.glob("kube*/*.yaml"))]


def manifests(kind: str) -> list[dict]:
    documents = (yaml.safe_load_all(path.read_text()) for path in CLUSTER.glob("kube*/*.yaml"))
    return [document for several in documents for document in several if document["kind"] == kind]


def pinned(package: str) -> str:
    return re.search(rf"^{package}==(.+)$", (ROOT / "constraints.txt").read_text(), re.M)[1]


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.stem)
def test_launcher_takes_the_file(path):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load(path.read_text()))
    validate_config(config)
    for source in config["file_mounts"].values():
        assert source.startswith("~") or (ROOT / source).exists()


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.stem)
def test_launched_clusters_ask_for_a_token_and_bind_no_dashboard(path):
    config = yaml.safe_load(path.read_text())
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    containers = " ".join(config.get("docker", {}).get("run_options", []))
    for start in (command for command in starts if "ray start" in command):
        assert "RAY_AUTH_MODE=token" in containers + start
        assert "--dashboard-host" not in start
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_shell_scripts_have_no_known_mistakes():
    subprocess.run(["shellcheck", *CLUSTER.glob("*.sh")], check=True)


def test_every_image_is_of_this_version():
    for path in [*FILES, CLUSTER / "Dockerfile", CLUSTER / "README.md"]:
        assert set(re.findall(r"/rtk:(\S+)", path.read_text())) <= {rtk.__version__}, path


def test_kuberay_is_told_the_version_of_ray():
    (cluster,) = manifests("RayCluster")
    assert cluster["spec"]["rayVersion"] == pinned("ray")
    assert cluster["spec"]["authOptions"] == {"mode": "token"}


def test_pods_mount_what_they_name():
    (cluster,) = manifests("RayCluster")
    (claim,) = manifests("PersistentVolumeClaim")
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for pod in (group["template"]["spec"] for group in groups):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == set(volumes)
        assert volumes["shared"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


def test_the_job_runs_on_that_cluster_and_its_command_is_one(tmp_path, capsys):
    (cluster,), (job,) = manifests("RayCluster"), manifests("RayJob")
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}
    _, *command = shlex.split(job["spec"]["entrypoint"])
    assert main([*command, "--print-config"]) == 0
    assert "output: /shared/runs" in capsys.readouterr().out


def test_the_server_is_reached_where_it_listens_and_has_its_token():
    (deployment,), (service,) = manifests("Deployment"), manifests("Service")
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    _, *command = container["command"]
    options = _parse(command)
    (port,) = container["ports"]
    assert (options.command, options.host, options.port) == ("serve", "0.0.0.0", port["containerPort"])
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == str(options.port)
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": OPEN, "port": port["name"]}
    assert [entry["name"] for entry in container["env"]] == [TOKEN]
    assert pod["spec"]["terminationGracePeriodSeconds"] > END_SECONDS
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    assert service["spec"]["selector"] == pod["metadata"]["labels"]
    (scaler,) = manifests("HorizontalPodAutoscaler")
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]


def test_image_is_built_from_what_there_is():
    copies = re.findall(r"^COPY (.+) \S+$", (CLUSTER / "Dockerfile").read_text(), re.M)
    for source in (source for line in copies for source in line.split()):
        assert os.path.exists(ROOT / source), source
