"""What can be said of Dockerfile and compose.yaml without Docker: that they agree with each other and with the program."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import typer
import yaml

from latentbridge.cli import app
from latentbridge.errors import UserError
from latentbridge.serving.guard.keys import ENVIRONMENT, Keys, check_bind
from latentbridge.serving.guard.limits import OPEN_PATHS

ROOT = Path(__file__).parent.parent
STAGES = [
    [tuple(line.split(maxsplit=1)) for line in stage.splitlines() if line and not line.startswith("#")]
    for stage in re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text()).split("\nFROM ")[1:]
]
"""Each stage as its instructions, (name, arguments); the first of them, its image, lost its FROM."""
LAST = dict(STAGES[-1][1:])
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVER, STORE = COMPOSE["services"]["server"], COMPOSE["services"]["store"]
KEPT_IN = {"server": {"/tmp"}, "store": {"/var/lib/postgresql/data"}}


def options(arguments: list[str]) -> dict[str, Any]:
    """What the program makes of a command line that is not run; a usage error raises."""
    verb, *rest = arguments
    group: Any = typer.main.get_command(app)
    return group.commands[verb].make_context(verb, rest).params


@pytest.mark.parametrize("command", [json.loads(LAST["CMD"]), SERVER["command"]])
def test_the_program_knows_its_command_line_and_wants_a_key(command: list[str]):
    known = options(command)
    assert str(known["port"]) == LAST["EXPOSE"] and known["indexes"]
    with pytest.raises(UserError, match=ENVIRONMENT):
        check_bind(known["host"], Keys())


def test_the_port_is_the_same_everywhere_and_published_on_loopback_alone():
    port = LAST["EXPOSE"]
    assert SERVER["ports"] == [f"127.0.0.1:{port}:{port}"] and "ports" not in STORE
    asked = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", LAST["HEALTHCHECK"])
    assert asked and asked[1] == port and asked[2] in OPEN_PATHS
    assert json.loads(LAST["ENTRYPOINT"]) == ["latentbridge"]


def test_the_image_holds_what_it_copies_and_no_more():
    ignored = (ROOT / ".dockerignore").read_text().split()
    copied = [name for what, given in STAGES[0] if what == "COPY" for name in given.split()[:-1]]
    assert ignored[0] == "*" and sorted(f"!{name}" for name in copied) == sorted(n for n in ignored if n[0] == "!")
    assert all((ROOT / name).exists() for name in copied)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = re.search(r'"\.\[([\w,]+)\]"', str(STAGES[0]))
    assert wanted and set(wanted[1].split(",")) <= set(extras)


def test_nobody_in_the_containers_has_more_rights_than_needed():
    user, group = LAST["USER"].split(":")
    assert int(user) > 0 and int(group) > 0
    assert LAST["RUN"] == f"install --directory --owner={user} --group={group} {LAST['WORKDIR']}"
    assert SERVER["read_only"] and SERVER["cap_drop"] == ["ALL"] and set(SERVER["tmpfs"]) == KEPT_IN["server"]
    assert all("no-new-privileges:true" in service["security_opt"] for service in (SERVER, STORE))
    assert COMPOSE["networks"]["back"]["internal"] and STORE["networks"] == ["back"]
    assert all(":" in image and not image.endswith(":latest") for image in (STAGES[1][0][0], STORE["image"]))


def test_secrets_come_from_outside_and_must_be_there():
    secrets = [SERVER["environment"][ENVIRONMENT], SERVER["environment"]["PGPASSWORD"]]
    secrets.append(STORE["environment"]["POSTGRES_PASSWORD"])
    assert all(re.fullmatch(r"\$\{[A-Z_]+:\?[^}]+\}", secret) for secret in secrets) and secrets[1] == secrets[2]
    assert not re.search(r"(?i)(password|key|token)\s*=", (ROOT / "Dockerfile").read_text())


def test_the_server_finds_its_store_and_the_store_keeps_its_data():
    address = urlsplit(options(SERVER["command"])["indexes"])
    assert address.hostname in COMPOSE["services"] and address.hostname in SERVER["depends_on"]
    assert (address.username, address.path) == (
        STORE["environment"]["POSTGRES_USER"],
        "/" + STORE["environment"]["POSTGRES_DB"],
    )
    assert address.password is None and set(STORE["networks"]) & set(SERVER["networks"])
    volumes = dict(volume.split(":") for volume in STORE["volumes"])
    assert set(volumes) <= set(COMPOSE["volumes"]) and set(volumes.values()) == KEPT_IN["store"]
    for condition in SERVER["depends_on"].values():
        assert condition["condition"] == "service_healthy" and STORE["healthcheck"]["test"][1] == "pg_isready"


def test_what_the_docs_say_to_paste_is_understood():
    blocks = re.findall(r"```json\n(.*?)```", (ROOT / "docs/mcp.md").read_text(), re.DOTALL)
    servers = [entry for block in blocks for entries in json.loads(block).values() for entry in entries.values()]
    local = [entry for entry in servers if "command" in entry]
    assert len(local) >= 2 and len(servers) > len(local)
    for entry in local:
        assert entry["command"].endswith("latentbridge") and entry["args"][0] == "mcp" and options(entry["args"])
    for entry in servers:
        assert entry in local or (
            entry["url"].endswith("/mcp") and entry["headers"]["Authorization"].startswith("Bearer ")
        )
