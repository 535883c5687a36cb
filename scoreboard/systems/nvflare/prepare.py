"""NVIDIA FLARE: a server and two sites with certificates, on this machine.

python -m scoreboard.systems.nvflare.prepare JOB PORT LINK
"""

from __future__ import annotations

import json
import sys

import yaml
from nvflare.tool.poc.poc_commands import prepare_poc_provision

from scoreboard.shared.job import Job
from scoreboard.shared.nets import COLLABORATOR, HOST
from scoreboard.systems.nvflare.kits import ADMIN, kits


def main(job: Job, port: str, link: str) -> None:
    """Provision by FLARE's own tool; the Collaborator's site goes to another port."""
    people = [
        {"name": "server", "type": "server", "org": "o", "default_host": "localhost"}
        | {"fed_learn_port": int(port)},
        {"name": ADMIN, "type": "admin", "org": "o", "role": "project_admin"},
        *({"name": site, "type": "client", "org": "o"} for site in (HOST, COLLABORATOR)),
    ]
    where = "nvflare.lighter.impl"
    builders = [
        {"path": f"{where}.workspace.WorkspaceBuilder"}
        | {"args": {"template_file": ["master_template.yml"]}},
        {"path": f"{where}.static_file.StaticFileBuilder", "args": {"config_folder": "config"}},
        {"path": f"{where}.cert.CertBuilder"},
        {"path": f"{where}.signature.SignatureBuilder"},
    ]
    project = job.folder / "project.yml"
    told = {"api_version": 3, "name": "scoreboard", "description": "scoreboard"}
    project.write_text(yaml.safe_dump({**told, "participants": people, "builders": builders}))
    prepare_poc_provision(
        clients=[HOST, COLLABORATOR],
        number_of_clients=2,
        workspace=str(job.folder / "poc"),
        docker_image=None,
        use_he=False,
        project_conf_path=str(project),
        examples_dir=None,
    )
    path = kits(job) / COLLABORATOR / "startup" / "fed_client.json"
    text = json.loads(path.read_text())
    text["servers"][0]["service"]["target"] = f"localhost:{link}"
    path.write_text(json.dumps(text))


if __name__ == "__main__":
    main(Job.read(sys.argv[1]), *sys.argv[2:])
