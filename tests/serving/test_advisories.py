"""The published advisories of TorchServe, as docs/operations.md lists them, against the configuration that runs."""

import re
import zipfile
from pathlib import Path

from serving.torchserve.server import TorchServe

DOCS = Path(__file__).parents[2] / "docs" / "operations.md"
SHIELDS = {
    "CVE-2023-43654": {"allowed_urls", "management_address"},
    "CVE-2022-1471": set(),
    "CVE-2024-35198": {"allowed_urls", "management_address"},
    "CVE-2024-35199": {"grpc_inference_address", "grpc_management_address"},
}


def configuration(server: TorchServe) -> dict[str, str]:
    lines = (server.folder / "config.properties").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_every_advisory_is_listed_with_its_date_and_settings_that_are_so(server: TorchServe) -> None:
    rows = re.findall(r"^\| (CVE-\d+-\d+).*?\| (\d{4}-\d\d-\d\d) \|.*\|(.*)\|$", DOCS.read_text(), re.MULTILINE)
    assert {name for name, _, _ in rows} == SHIELDS.keys()
    settings = configuration(server)
    for name, _, shield in rows:
        assert set(re.findall(r"`(\w+)`", shield)) <= SHIELDS[name] <= settings.keys(), name


def test_what_shields_is_set(server: TorchServe, mar: Path) -> None:
    settings = configuration(server)
    store = f"{server.folder}/store/"
    assert re.fullmatch(settings["allowed_urls"], f"file://{store}shop-1.0.mar")
    for elsewhere in ("http://a.b/c.mar", "https://a.b/c.mar", "s3://a/c.mar", "file:///tmp/c.mar", f"{store}c.mar"):
        assert not re.fullmatch(settings["allowed_urls"], elsewhere), elsewhere
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", settings["management_address"])
    assert settings["grpc_inference_address"] == settings["grpc_management_address"] == "127.0.0.1"
    assert int(settings["max_request_size"]) <= 2**20
    assert settings["install_py_dep_per_model"] == settings["enable_envvars_config"] == "false"
    names = zipfile.ZipFile(mar).namelist()
    assert not [name for name in names if name.endswith((".yaml", ".yml"))], "nothing for SnakeYAML to read"


def test_a_way_out_of_the_store_is_refused(server: TorchServe, mar: Path, tmp_path: Path) -> None:
    """CVE-2024-35198, tried on the server that runs."""
    up = "/".join([".."] * 12)
    for url in (f"file://{server.folder}/store/{up}{mar}", f"file://{server.folder}/store/../../{mar}", f"{up}{mar}"):
        assert server.call("management", "POST", f"/models?url={url}").status >= 400, url
