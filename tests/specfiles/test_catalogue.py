"""A catalogue finds what people mean, and says what exists where it finds nothing."""

from pathlib import Path

import pytest

from specfiles.catalogue import Catalogue
from specfiles.errors import InputError, choose, nearest, plain
from specfiles.reading import read_yaml


def names(path: Path) -> list[str]:
    data = read_yaml(path)
    return [data["name"], *data.get("aliases", [])]


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    folder = tmp_path / "shipped"
    folder.mkdir()
    (folder / "fast_one.yaml").write_text("name: Fast-One 80GB\naliases: [F1, the fast one]\n")
    (folder / "slow_one.yml").write_text("name: Slow-One\n")
    (folder / "notes.txt").write_text("no spec")
    return Catalogue("device", folder, (".yaml", ".yml"), names, "hw")


@pytest.mark.parametrize(
    "asked", ["fast_one", "FAST-ONE", "fast one", "Fast-One 80GB", "fastone80gb", "f1", "THE_FAST-ONE"]
)
def test_case_and_separators_do_not_matter(catalogue: Catalogue, asked: str) -> None:
    assert catalogue.find(asked).name == "fast_one.yaml"


def test_only_files_with_the_suffix_are_listed_and_in_order(catalogue: Catalogue) -> None:
    assert [path.name for path in catalogue] == ["fast_one.yaml", "slow_one.yml"]


def test_a_path_is_taken_as_it_is(catalogue: Catalogue, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("name: whatever")
    assert catalogue.find(str(mine)) == mine


@pytest.mark.parametrize("asked", ["mine.yaml", "some/where.yml", "config.json"])
def test_a_file_that_does_not_exist_is_no_misspelt_name(catalogue: Catalogue, asked: str) -> None:
    with pytest.raises(InputError, match=rf"^{asked}: no such file\.$"):
        catalogue.find(asked)


def test_of_few_names_all_are_listed_beside_the_nearest() -> None:
    few, many = ["table", "json", "csv", "html"], [f"name {i}" for i in range(9)]
    assert "did you mean html? (known: table, json, csv, html)" in str(choose("yaml", few, "format"))
    assert "known" not in str(choose("name 8b", many, "format"))


def test_an_alias_is_proposed_where_it_is_nearer_than_its_name() -> None:
    aliases = {"h100": "H100-SXM5-80GB", "H100-SXM": "H100-SXM5-80GB"}
    said = str(choose("h10", ["H100-SXM5-80GB", "H20-SXM5-96GB"], "device", aliases=aliases))
    assert "did you mean h100?" in said


def test_a_folder_is_refused_by_name(catalogue: Catalogue, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder, expected a device file or name"):
        catalogue.find(str(tmp_path))


def test_a_file_stem_opens_no_file(tmp_path: Path) -> None:
    """The usual look-up must not parse fifty files; a broken neighbour does not stand in its way."""
    for stem in ("a", "b"):
        (tmp_path / f"{stem}.yaml").write_text("{broken")

    def explode(path: Path) -> list[str]:
        raise AssertionError(f"{path} was opened")

    assert Catalogue("device", tmp_path, (".yaml",), explode).find("B").name == "b.yaml"


def test_a_misspelt_name_suggests_the_nearest_and_says_where_all_are(catalogue: Catalogue) -> None:
    with pytest.raises(InputError) as error:
        catalogue.find("fats one 80gb")
    sentence = str(error.value)
    assert "no device named 'fats one 80gb'" in sentence
    assert "did you mean Fast-One 80GB" in sentence
    assert "Slow-One" not in sentence.partition("?")[0].partition("or")[0]
    assert "`roofline hw list`" in sentence


def test_a_name_like_nothing_lists_everything(catalogue: Catalogue) -> None:
    with pytest.raises(InputError, match=r"known: Fast-One 80GB, Slow-One\."):
        catalogue.find("zzzzzzzz")


def test_nearest_is_best_first_and_bounded() -> None:
    known = ["H100-SXM5-80GB", "H100-PCIe-80GB", "H200-SXM-141GB", "A100-SXM4-80GB", "MI300X"]
    assert nearest("h100 sxm 80gb", known)[0] == "H100-SXM5-80GB"
    assert len(nearest("100", known, most=2)) <= 2
    assert nearest("quantum", known) == []


def test_a_name_that_begins_as_asked_is_proposed_first() -> None:
    said = str(choose("Qwen3-235B", ["Qwen3-32B", "Qwen3-VL-235B-A22B", "Qwen3-235B-A22B"], "model"))
    assert "did you mean Qwen3-235B-A22B or" in said


def test_plain_keeps_what_distinguishes() -> None:
    assert plain("Llama-3.1 8B") == plain("llama_3.1_8b")
    assert plain("opt-1.3b") != plain("opt-30b")


def test_choose_without_a_near_name_lists_all() -> None:
    assert str(choose("zz", ["table", "json"], "format")) == "no format named 'zz'; known: table, json."
