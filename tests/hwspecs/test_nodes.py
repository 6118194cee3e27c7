"""Every shipped node file: sourced, in agreement with its device, with its topology and with printed sums."""

from pathlib import Path
from typing import Any

import pytest

from hwspecs.loader import DEVICES, HARDWARE, NODES, load_device
from hwspecs.node import Fabric, Node
from hwspecs.node_check import check_node
from hwspecs.values import walk
from specfiles.errors import InputError, plain
from specfiles.reading import read_yaml
from specfiles.strict import validated

FILES = NODES.paths()
IDS: dict[str, Any] = {"ids": lambda path: path.stem}


@pytest.mark.parametrize("path", FILES, **IDS)
def test_a_node_file_can_be_vouched_for(path: Path) -> None:
    device = load_device(path)
    node = device.node
    assert node is not None
    assert {value.source for _, value in walk(node)} == set(node.sources), "cited and listed sources differ"
    assert [f.message for f in check_node(node, device) if f.severity == "error"] == []
    assert device.name == load_device(node.device).name
    assert HARDWARE.find(node.name) == path
    assert {HARDWARE.find(alias) for alias in node.aliases} == {path}


def test_no_name_is_a_node_and_a_device() -> None:
    names = {path: {plain(path.stem), *map(plain, HARDWARE.names(path))} for path in HARDWARE}
    devices = set().union(*(names[path] for path in DEVICES))
    nodes = set().union(*(names[path] for path in NODES))
    assert devices & nodes == set()
    assert sum(len(names[path]) for path in NODES) == len(nodes)


@pytest.mark.parametrize(
    ("instance", "file"),
    [("p5.48xlarge", "dgx_h100"), ("a4-highgpu-8g", "dgx_b200"), ("nd96isr h200 v5", "dgx_h200")],
)
def test_a_cloud_instance_finds_the_node_it_is(instance: str, file: str) -> None:
    assert HARDWARE.find(instance).stem == file


def fabric(topology: str, rate: float = 1e9, shape: list[int] | None = None) -> Fabric:
    data = {"link": "ici", "type": "wire", "topology": topology, "shape": shape or []}
    return validated(Fabric, {**data, "byte_per_s": {"value": rate, "source": "paper"}}, "test")


@pytest.mark.parametrize(
    ("topology", "shape", "devices", "bisection"),
    [
        ("switch", None, 8, 4e9),  # four devices send at full rate
        ("host", None, 8, 4e9),
        ("mesh", None, 2, 1e9),
        ("mesh", None, 8, 16e9 / 7),  # 4 x 4 of the 28 links cross, each a seventh of a device's rate
        ("torus", [4, 4], 16, 2e9),  # 2 x 4 links of a quarter of the rate
        ("torus", [4, 4, 4], 64, 32e9 / 6),
        ("torus", [2, 8], 16, 1e9),  # cut across the longest axis
        ("grid", [4, 4], 16, 1e9),  # no links back from the last to the first
    ],
)
def test_bisections_known_on_paper(topology: str, shape: Any, devices: int, bisection: float) -> None:
    assert fabric(topology, shape=shape).bisection(devices) == pytest.approx(bisection, rel=1e-12)


def test_published_sums() -> None:
    """14.4 TB/s of a DGX B200, 130 TB/s of an NVL72 and 3.6 TB/s across a DGX H100 count both directions."""
    for stem, quantity, both in (
        ("dgx_b200", "aggregate_byte_per_s", 14.4e12),
        ("gb300_nvl72", "aggregate_byte_per_s", 130e12),
        ("dgx_h100", "bisection_byte_per_s", 3.6e12 / 2),
    ):
        node = load_device(stem).node
        assert node is not None
        within = node.within
        assert within is not None
        assert getattr(within, quantity).value == both


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("within.byte_per_s.value", 900e9, "link_lanes"),  # both directions
        ("within.byte_per_s.value", 900e9, "device_link"),
        ("within.bisection_byte_per_s.value", 3.6e12, "bisection"),
        ("memory_bytes.value", 687e9, "memory"),  # GiB
    ],
)
def test_a_broken_node_is_an_error_of_its_rule(key: str, value: float, rule: str) -> None:
    raw: Any = read_yaml(NODES.find("dgx_h100"))
    *parents, last = key.split(".")
    place = raw
    for parent in parents:
        place = place[parent]
    place[last] = value
    node = validated(Node, raw, "test")
    assert rule in {f.rule for f in check_node(node, load_device("h100")) if f.severity == "error"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("value: 8, source: basepod", "value: 8, source: rumour", "devices: source 'rumour'"),
        ("value: 8, source: basepod", "value: 7.5, source: basepod", "devices: 7.5 is not a whole number"),
        ("topology: switch", "topology: star", "'star'"),
        ("topology: switch", "topology: torus", "within.shape"),
        ("topology: switch", "topology: torus\n  shape: [2, 3]", r"\[2, 3\] holds 6 devices, not 8"),
        ("device: h100_sxm", "device: H101", "no device named 'H101'"),
        ("device: h100_sxm", "device: dgx_a100", "no device named 'dgx_a100'"),
        ("device: h100_sxm", "device: node.yaml", r"device: node\.yaml is a node itself; name a device"),
    ],
)
def test_a_wrong_node_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = NODES.find("dgx_h100").read_text()
    assert old in text
    file = tmp_path / "node.yaml"
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=said):
        load_device(str(file))


def test_a_node_of_ones_own_device(tmp_path: Path) -> None:
    device = DEVICES.find("l4").read_text().replace("name: L4-24GB", "name: Mine")
    (tmp_path / "mine.yaml").write_text(device)
    node = NODES.find("pcie_l4_8").read_text().replace("device: l4", "device: mine.yaml")
    (tmp_path / "two.yaml").write_text(node)
    assert load_device(tmp_path / "two.yaml").name == "Mine"
