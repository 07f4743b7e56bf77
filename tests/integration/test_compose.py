"""What is shipped for a Centrifugo in front: the compose file, and the configuration it mounts.

No container is started here, and no Centrifugo: docs/centrifugo-in-front.md says so. The file is
held to the part of the compose specification that it uses, and the configuration to what a hub
behind it relies on; tests/features/test_bridge_in_front.py drives a fake with that configuration.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from clawnet.app.config import load
from clawnet.core.channels import RESERVED_ROOTS
from clawnet.features.bridge.feature import ROOTS
from clawnet.hub.jwts import KEY_MIN_BYTES

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "centrifugo"
TEXT = (FOLDER / "docker-compose.yml").read_text()
COMPOSE = yaml.safe_load(TEXT)
SERVICES: dict[str, Any] = COMPOSE["services"]
CONFIG = json.loads((FOLDER / "config.json").read_text())
EXAMPLE = (FOLDER / "env.example").read_text()
SECRETS = ("JWT_SECRET", "CENTRIFUGO_API_KEY", "PROXY_SECRET")
OPTIONAL = ("ALLOWED_ORIGINS", "MOLTBOOK_API_KEY", "CLAWNET_IDENTITY_PROOFS")

STRING = {"type": "string"}
STRINGS = {"type": "array", "items": STRING, "uniqueItems": True}
DURATION = {"type": "string", "pattern": r"^([0-9]+(us|ms|s|m|h))+$"}
SERVICE = {
    "type": "object",
    "additionalProperties": False,
    "anyOf": [{"required": ["image"]}, {"required": ["build"]}],
    "properties": {
        "image": {"type": "string", "pattern": r"^[a-z0-9./-]+:[A-Za-z0-9._-]+$"},
        "build": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"context": STRING, "dockerfile": STRING},
        },
        "command": {"type": "array", "items": STRING},
        "environment": {"type": "object", "additionalProperties": {"type": ["string", "null"]}},
        "volumes": STRINGS,
        "ports": {
            "type": "array",
            "items": {"type": "string", "pattern": r"^127\.0\.0\.1:[0-9]+:[0-9]+$"},
        },
        "networks": STRINGS,
        "tmpfs": STRINGS,
        "read_only": {"type": "boolean"},
        "cap_drop": STRINGS,
        "security_opt": STRINGS,
        "restart": {"enum": ["no", "always", "on-failure", "unless-stopped"]},
        "ulimits": {"type": "object"},
        "depends_on": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "required": ["condition"],
                "properties": {
                    "condition": {
                        "enum": [
                            "service_started",
                            "service_healthy",
                            "service_completed_successfully",
                        ]
                    }
                },
            },
        },
        "healthcheck": {
            "type": "object",
            "additionalProperties": False,
            "required": ["test"],
            "properties": {
                "test": {"type": "array", "items": STRING, "minItems": 2},
                "interval": DURATION,
                "timeout": DURATION,
                "start_period": DURATION,
                "retries": {"type": "integer"},
            },
        },
    },
}
SPECIFICATION = {
    "type": "object",
    "additionalProperties": False,
    "required": ["services"],
    "properties": {
        "name": {"type": "string", "pattern": r"^[a-z0-9][a-z0-9_-]*$"},
        "services": {
            "type": "object",
            "patternProperties": {r"^[a-zA-Z0-9._-]+$": SERVICE},
            "additionalProperties": False,
        },
        "networks": {
            "type": "object",
            "additionalProperties": {
                "type": ["object", "null"],
                "additionalProperties": False,
                "properties": {
                    "internal": {"type": "boolean"},
                    "ipam": {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {
                            "config": {
                                "type": "array",
                                "items": {
                                    "type": "object",
                                    "additionalProperties": False,
                                    "properties": {"subnet": STRING, "gateway": STRING},
                                },
                            }
                        },
                    },
                },
            },
        },
        "volumes": {"type": "object", "additionalProperties": {"type": ["object", "null"]}},
    },
}
"""As much of the compose specification (compose-spec.json) as the file needs, and no more; ports
only on this machine's own address."""


# --- the compose file ---------------------------------------------------------


def test_the_compose_file_is_one() -> None:
    import jsonschema_rs

    draft = "https://json-schema.org/draft/2020-12/schema"
    validator = jsonschema_rs.validator_for({"$schema": draft, **SPECIFICATION})
    assert [error.message for error in validator.iter_errors(COMPOSE)] == []


def test_the_engine_itself_reads_it(tmp_path: Path) -> None:
    try:
        there = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no docker")
    if there.returncode:
        pytest.skip("this docker has no compose")
    secrets = dict.fromkeys(SECRETS, "x" * 32)
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(tmp_path), **secrets}
    said = subprocess.run(
        ["docker", "compose", "-f", FOLDER / "docker-compose.yml", "config", "-q"],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr


def test_what_it_refers_to_is_there() -> None:
    for name, service in SERVICES.items():
        assert {*service["networks"]} <= COMPOSE["networks"].keys(), name
        assert {*service.get("depends_on", {})} <= SERVICES.keys(), name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            is_file = source.startswith(".")
            assert (FOLDER / source).is_file() if is_file else source in COMPOSE["volumes"]
    assert (FOLDER / SERVICES["claw_api"]["build"]["context"] / "Dockerfile").is_file()


def test_no_secret_has_a_default_and_each_must_be_set() -> None:
    used = re.findall(r"\$\{([A-Z_]+)([^}]*)\}", TEXT)
    for name, rest in used:
        assert rest == "-" if name in OPTIONAL else rest.startswith(":?"), f"{name}: {rest}"
    assert {name for name, _ in used} == {*SECRETS, *OPTIONAL}
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search("KEY|SECRET|HEADERS|PASSWORD", name):
                assert "${" in value, f"{name} stands in the file"
    assert re.findall(r"(?m)^([A-Z_]+)=(.+)$", EXAMPLE) == [], "an example that works gets used"
    assert {*re.findall(r"(?m)^([A-Z_]+)=", EXAMPLE)} == {*SECRETS, *OPTIONAL}
    assert ".env" in (FOLDER / ".gitignore").read_text().split()


def test_redis_is_out_of_reach() -> None:
    redis = SERVICES["redis"]
    assert "ports" not in redis and redis["networks"] == ["back"]
    assert COMPOSE["networks"]["back"] == {"internal": True}
    beside = [name for name, service in SERVICES.items() if "back" in service["networks"]]
    assert sorted(beside) == ["centrifugo", "redis"]
    assert CONFIG["redis_address"] == "redis://redis:6379"


def test_every_service_is_asked_whether_it_is_well() -> None:
    assert all("healthcheck" in service for service in SERVICES.values())
    waits = SERVICES["centrifugo"]["depends_on"].values()
    assert {wait["condition"] for wait in waits} == {"service_healthy"}
    assert SERVICES["centrifugo"]["healthcheck"]["test"][-1].endswith("/health")
    assert CONFIG["health"] is True


def test_centrifugo_and_the_hub_are_given_the_same_secrets() -> None:
    hub, broker = (SERVICES[name]["environment"] for name in ("claw_api", "centrifugo"))
    for name in ("CENTRIFUGO_TOKEN_HMAC_SECRET_KEY", "CENTRIFUGO_API_KEY"):
        assert hub[name] == broker[name]
    shown = broker["CENTRIFUGO_PROXY_STATIC_HTTP_HEADERS"]
    secret = hub["CLAWNET_CENTRIFUGO_PROXY_SECRET"]
    assert shown == f'{{"X-Clawnet-Proxy-Secret":"{secret}"}}'


def test_the_hub_understands_what_it_is_told() -> None:
    """The variables are settings of it, and name the port that its health check asks."""
    service = SERVICES["claw_api"]
    told = load(flags={}, environment=filled(service["environment"]), file=None)
    assert told.tokens.jwt_key and told.centrifugo.api_key and told.centrifugo.proxy_secret
    assert told.bridge.centrifugo_url == "http://centrifugo:8000/api"
    assert told.port == 3000
    assert service["command"][0] == "up" and "--behind-proxy" in service["command"]
    assert service["command"][service["command"].index("--port") + 1] == "3000"
    network = service["command"][service["command"].index("--behind-proxy") + 1]
    gateway = COMPOSE["networks"]["front"]["ipam"]["config"][0]["gateway"]
    assert network == f"{gateway}/32"


def filled(environment: dict[str, str], **given: str) -> dict[str, str]:
    """The variables with every secret filled in, and what is optional left empty or given."""

    def value(found: re.Match[str]) -> str:
        return given.get(found[1], "" if found[1] in OPTIONAL else "s" * KEY_MIN_BYTES)

    pattern = re.compile(r"\$\{([A-Z_]+)[^}]*\}")
    return {name: pattern.sub(value, text) for name, text in environment.items()}


def test_a_key_of_moltbooks_is_all_that_a_login_by_moltbook_needs() -> None:
    environment = SERVICES["claw_api"]["environment"]
    without = load(flags={}, environment=filled(environment), file=None)
    assert without.identity.taken == ["ssh-key"]
    there = filled(environment, MOLTBOOK_API_KEY="a key")
    found = load(flags={}, environment=there, file=None).identity
    assert (found.taken, found.moltbook_key) == (["moltbook", "ssh-key"], "a key")
    named = filled(environment, MOLTBOOK_API_KEY="a key", CLAWNET_IDENTITY_PROOFS="moltbook")
    assert load(flags={}, environment=named, file=None).identity.taken == ["moltbook"]


# --- the configuration --------------------------------------------------------


def test_the_configuration_is_what_its_generator_prints() -> None:
    made = subprocess.run(
        [sys.executable, FOLDER / "make_config.py"], capture_output=True, text=True, check=True
    )
    assert made.stdout == (FOLDER / "config.json").read_text()
    other = subprocess.run(
        [sys.executable, FOLDER / "make_config.py", "--hub", "http://elsewhere:1/"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(other.stdout)["proxy_publish_endpoint"] == "http://elsewhere:1/proxy/publish"


def test_every_subscription_and_publish_is_asked_about() -> None:
    assert CONFIG["channel_namespace_boundary"] == "."
    names = [namespace["name"] for namespace in CONFIG["namespaces"]]
    assert sorted(names) == sorted(ROOTS) and ROOTS <= RESERVED_ROOTS
    for namespace in CONFIG["namespaces"]:
        assert namespace["proxy_subscribe"] is True
        assert namespace["proxy_publish"] is (namespace["name"] != "system")
    for what in ("connect", "refresh", "subscribe", "publish"):
        assert CONFIG[f"proxy_{what}_endpoint"] == f"http://claw_api:3000/proxy/{what}"


def test_nothing_is_allowed_past_the_hub() -> None:
    def options(of: dict[str, Any]) -> set[str]:
        return {name for name, value in of.items() if name.startswith("allow_") and value}

    assert options(CONFIG) == set() and CONFIG["client_insecure"] is False
    for namespace in CONFIG["namespaces"]:
        is_public = namespace["name"] == "public"
        # Of what one may follow; others' private channels keep nothing there at all.
        assert options(namespace) == ({"allow_history_for_subscriber"} if is_public else set())
        assert ("history_size" in namespace) is is_public
    public = CONFIG["namespaces"][names_of(CONFIG).index("public")]
    assert (public["history_size"], public["history_ttl"]) == (100, "3600s")
    assert not re.search("secret|key|password|token_hmac", json.dumps(CONFIG))


def names_of(config: dict[str, Any]) -> list[str]:
    return [namespace["name"] for namespace in config["namespaces"]]
