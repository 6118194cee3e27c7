"""Campaigns of real devices: their ceilings and constants are used, and hold to the data sheet."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from hwspecs import load_device, measured
from hwspecs.calibrations import cell_of, kernels_of, read_calibration
from hwspecs.values import walk
from profiler.campaign.folder import CALIBRATION, DEVICE, OPERATORS, open_campaign
from roofline.ceilings import ceilings
from roofline.optable import predict_table
from specfiles.errors import InputError

SHIPPED = sorted(path for path in measured.FOLDER.glob("*") if path.is_dir())
# Nothing of theirs is rotated: the L2 keeps what fits from replay to replay, as in a model between kernels.
OF_ACTIVATIONS = ("rmsnorm", "act_mul", "elementwise_add", "rope", "sampling")
SLACK = 1.05  # clocks may exceed those of the data sheet by as much
H100 = """
schema: 1
name: H100 80GB HBM3
vendor: NVIDIA
kind: gpu
architecture: Hopper (sm90)
sources: {sheet: a sheet, measured: "roofline ceilings, medians of 5 passes"}
datasheet:
  dram: {type: HBM3, capacity_bytes: {value: 80.0e+9, source: sheet}}
measured:
  dram_byte_per_s: {value: 2.9e+12, source: measured, note: copy}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The results of a campaign on the H100 stand where shipped ones would."""
    monkeypatch.setattr(measured, "FOLDER", tmp_path)
    made = tmp_path / "H100-SXM5-80GB"
    made.mkdir()
    (made / DEVICE).write_text(H100)
    return made


def test_ceilings_of_a_campaign_stand_in_the_device(folder: Path) -> None:
    before = load_device("a100_sxm").measured.dram_byte_per_s
    device = load_device("h100_sxm")
    assert device.measured.dram_byte_per_s is not None
    assert device.measured.dram_byte_per_s.value == 2.9e12
    assert device.sources["measured"] == "roofline ceilings, medians of 5 passes"
    assert device.name == "H100-SXM5-80GB"
    assert device.datasheet.dram.byte_per_s is not None  # the sheet is the project's own
    assert ceilings(device, "measured").dram_byte_per_s == 2.9e12
    assert load_device("a100_sxm").measured.dram_byte_per_s == before
    assert {value.source for _, value in walk(device)} == set(device.sources)


def test_a_source_that_means_two_things_is_refused(folder: Path) -> None:
    own = next(iter(load_device("h100_sxm").sources))
    (folder / DEVICE).write_text(H100.replace("sheet: a sheet", f"sheet: a sheet, {own}: another"))
    with pytest.raises(InputError, match=f"source '{own}' is another one"):
        load_device("h100_sxm")


def test_constants_of_a_campaign_come_first(folder: Path) -> None:
    shipped = kernels_of(load_device("h100_sxm"))
    assert shipped
    calibrations = Path(measured.__file__).parent / "calibrations"
    shutil.copy(calibrations / "A100-SXM4-80GB.json", folder / CALIBRATION)
    own = read_calibration(folder / CALIBRATION).kernels
    mine = {cell_of(kernel) for kernel in own}
    others = [kernel for kernel in shipped if cell_of(kernel) not in mine]
    assert 0 < len(others) < len(shipped)
    assert kernels_of(load_device("h100_sxm")) == (*own, *others)


def test_a_user_file_beside_it_stays_as_it_is(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(H100.replace("2.9e+12", "1.0e+12"))
    found = load_device(tmp_path / "mine.yaml").measured.dram_byte_per_s
    assert found is not None
    assert found.value == 1.0e12


@pytest.mark.skipif(not SHIPPED, reason="no campaign of a real device is shipped yet")
@pytest.mark.parametrize("path", SHIPPED or [Path("none")], ids=lambda path: path.name)
def test_a_shipped_campaign_holds_to_the_data_sheet(path: Path) -> None:
    device = load_device(path.name)
    head = open_campaign(path)
    assert load_device(head.device).name == device.name == path.name
    sheet, reached = device.datasheet, device.measured
    assert reached.dram_byte_per_s is not None
    assert sheet.dram.byte_per_s is not None
    assert reached.dram_byte_per_s.value <= SLACK * sheet.dram.byte_per_s.value
    for dtype, peak in reached.tensor_flop_per_s.items():
        assert peak.value <= SLACK * sheet.tensor_flop_per_s[dtype].value
    table = pd.read_parquet(path / OPERATORS)
    alone = table[table["n_gpus"].isna() & ~table["tag"].str.contains("warm")]
    limits = predict_table(alone, ceilings(load_device(path.name)))
    assert sheet.l2 is not None
    kept = alone["op"].isin(OF_ACTIVATIONS) & (limits["bytes_moved"] <= sheet.l2.capacity_bytes.value)
    floors = limits["predicted_us"].where(~kept, limits["compute_s"] * 1e6)
    low = alone[alone["latency_us"] * SLACK < floors]
    assert low.empty, low.dropna(axis=1)
    assert {kernel.source for kernel in read_calibration(path / CALIBRATION).kernels} == {head.source}
