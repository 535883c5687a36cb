"""The Dockerfile, compose.yaml and `deploy/` hold what they say, as far as it shows without Docker.

The scripts of compose.yaml run here as they are, on two ports of this machine.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import ROOT
from tests.identity.offices import free_port

yaml: Any = pytest.importorskip("yaml")

DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
PARTIES = ("bank", "shop")
EXPOSURE = 20
"""The most that `systemd-analyze security` may find, in tenths: 2.0 of 10."""


def of(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def tool(name: str) -> str:
    if (found := shutil.which(name)) is None:
        pytest.skip(f"{name} is not here")
    return found


def run(*words: str) -> str:
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# -- Docker ----------------------------------------------------------------------------------------

DOCKERFILE = (ROOT / "Dockerfile").read_text()
STEPS = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE)).splitlines()


def test_the_image_is_small_and_runs_as_a_plain_user() -> None:
    last = STEPS[max(at for at, step in enumerate(STEPS) if step.startswith("FROM ")) :]
    (user,) = (step.split()[1] for step in last if step.startswith("USER "))
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert not [step for step in last if "pip install" in step]
    assert [step for step in STEPS if '--torch-backend "${TORCH}"' in step]
    assert "ARG TORCH=cpu" in STEPS


def test_all_that_the_image_is_built_from_reaches_the_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    sent = {line[1:] for line in lines if line.startswith("!")}
    for step in STEPS:
        if step.startswith("COPY ") and "--from" not in step:
            for source in step.split()[1:-1]:
                assert (ROOT / source).exists(), source
                assert any(fnmatch(source, each) for each in sent), source
    used = re.findall(r'(?:path|content) = "([A-Z]+\.md)"', (ROOT / "pyproject.toml").read_text())
    assert {*used, "LICENSE"} <= sent


def test_the_dockerfile_passes_its_linter() -> None:
    run(tool("hadolint"), str(ROOT / "Dockerfile"))


def test_the_parties_of_compose_share_nothing_but_what_they_hand_over() -> None:
    services = of("compose.yaml")["services"]
    assert set(services) == set(PARTIES)
    volumes = {}
    for name, service in services.items():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        assert not {"ports", "privileged", "user", "network_mode"} & service.keys()
        mounts = [each.split(":")[0] for each in service["volumes"]]
        volumes[name] = {each for each in mounts if not each.startswith(".")}
        (script,) = service["command"]
        assert os.access(DEPLOY / "compose" / Path(script).name, os.X_OK)
    assert volumes["bank"] & volumes["shop"] == {"handover"}
    assert set.union(*volumes.values()) == set(of("compose.yaml")["volumes"])


@pytest.mark.parametrize("path", sorted((DEPLOY / "compose").iterdir()), ids=lambda path: path.name)
def test_scripts_can_be_read_by_any_shell(path: Path) -> None:
    run("/bin/sh", "-n", str(path))
    if shutil.which("shellcheck"):
        run("shellcheck", "--exclude=SC1091,SC2034", "--shell=sh", str(path))


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_scripts_of_compose_end_in_a_joint_model(tmp_path: Path) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    (tmp_path / "handover").mkdir()
    running: dict[str, subprocess.Popen[str]] = {}
    for name in PARTIES:
        (folder := tmp_path / name).mkdir(mode=0o700)
        own = {
            "HETEROFED_HOME": str(folder / "home"),
            "HANDOVER": str(tmp_path / "handover"),
            "ADDRESS": address,
            "BIND": address,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        running[name] = subprocess.Popen(
            [str(DEPLOY / "compose" / f"{name}.sh")],
            cwd=folder,
            env={**os.environ, **own},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        printed = {name: each.communicate(timeout=550)[0] for name, each in running.items()}
    finally:
        for each in running.values():
            if each.poll() is None:
                each.kill()
                each.communicate()
    for name, each in running.items():
        assert each.returncode == 0, printed[name][-3000:]
        assert "forecast: intersection of 1,800 and 1,800 ids" in printed[name]
        summary = tmp_path / name / "heterofed_runs" / "joint" / name / "summary.json"
        assert json.loads(summary.read_text())["rounds"] > 0
    handed = {path.name for path in (tmp_path / "handover").iterdir()}
    assert handed == {"bank.pub", "shop.pub", "joint.toml"}


# -- systemd ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_units_are_right_and_hardened(unit: Path, tmp_path: Path) -> None:
    analyse = tool("systemd-analyze")
    here = tmp_path / unit.name  # where nothing is installed at /opt
    here.write_text(re.sub(r"^(ExecStart=)\S+", r"\1/bin/true", unit.read_text(), flags=re.M))
    run(analyse, "verify", "--man=no", str(here))
    run(analyse, "security", "--offline=true", f"--threshold={EXPOSURE}", str(here))


# -- Kubernetes ------------------------------------------------------------------------------------


def manifests(party: str) -> dict[str, Any]:
    """The documents of a party by kind, read as its kustomization names them."""
    folder = DEPLOY / "kubernetes" / party
    names = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    assert {*names, "kustomization.yaml"} == {path.name for path in folder.iterdir()}
    found = [yaml.safe_load((folder / name).read_text()) for name in names]
    return {each["kind"]: each for each in found}


@pytest.mark.parametrize("party", PARTIES)
def test_pods_are_restricted(party: str) -> None:
    found = manifests(party)
    labels = found["Namespace"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    pod = found["Job"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {each["name"] for each in container["volumeMounts"]} == {
        each["name"] for each in pod["volumes"]
    }
    policy = found["NetworkPolicy"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["podSelector"]["matchLabels"].items() <= found["Job"]["spec"]["template"][
        "metadata"
    ]["labels"].items()  # fmt: skip


def test_only_the_host_listens() -> None:
    bank, shop = manifests("bank"), manifests("shop")
    (port,) = bank["Service"]["spec"]["ports"]
    pod = bank["Job"]["spec"]["template"]["spec"]
    (listens,) = pod["containers"][0]["ports"]
    assert port["targetPort"] == listens["name"]
    assert bank["NetworkPolicy"]["spec"]["ingress"][0]["ports"] == [
        {"protocol": "TCP", "port": listens["containerPort"]}
    ]
    assert bank["NetworkPolicy"]["spec"]["egress"] == []
    assert "Service" not in shop
    assert shop["NetworkPolicy"]["spec"]["ingress"] == []


@pytest.mark.parametrize("party", PARTIES)
def test_manifests_fit_their_schemas(party: str, tmp_path: Path) -> None:
    built = tmp_path / "built.yaml"
    built.write_text(run(tool("kubectl"), "kustomize", str(DEPLOY / "kubernetes" / party)))
    run(tool("kubernetes-validate"), "--strict", str(built))
