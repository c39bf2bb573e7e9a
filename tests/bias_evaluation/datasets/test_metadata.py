"""Metadata builders, on small folders in each dataset's real tree and file formats."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from bias_evaluation.datasets.metadata import (
    BUILDERS,
    FAIRFACE_RACES,
    METADATA,
    build_metadata,
    read_metadata,
)
from bias_evaluation.grid.configs import DATASETS, load_dataset_config
from safe_io.checkout import ROOT
from safe_io.errors import InputError

# The second line of list_attr_celeba.txt.
CELEBA_HEADER = (
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair "
    "Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair "
    "Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face "
    "Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair Wavy_Hair "
    "Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young "
)
CELEBA_ATTRIBUTES = CELEBA_HEADER.split()


def put(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def celeba_line(number: int, **positive: bool) -> str:
    """Write a line as the original file does: single-digit values are padded, the line ends with a space."""
    values = ("1" if positive.get(a) else "-1" for a in CELEBA_ATTRIBUTES)
    return f"{number:06d}.jpg " + " ".join(f"{v:>2}" for v in values) + " "


def celeba(folder: Path, *, count: int = 3) -> Path:
    lines = [str(count), CELEBA_HEADER]
    lines += [
        celeba_line(1, Male=True),
        celeba_line(2, Blond_Hair=True),
        celeba_line(3, Male=True, Young=True),
    ]
    return put(folder / "Anno" / "list_attr_celeba.txt", "\r\n".join(lines) + "\r\n")


FAIRFACE_HEADER = "file,age,gender,race,service_test\n"


def fairface(folder: Path) -> Path:
    put(
        folder / "fairface_label_val.csv",
        FAIRFACE_HEADER + "val/1.jpg,3-9,Male,East Asian,False\nval/2.jpg,more than 70,Female,White,True\n",
    )
    return put(
        folder / "fairface_label_train.csv",
        FAIRFACE_HEADER
        + "train/1.jpg,50-59,Male,Latino_Hispanic,True\ntrain/2.jpg,0-2,Female,Middle Eastern,False\n",
    )


def utkface(folder: Path) -> Path:
    names = [
        "9_1_4_20161219.jpg.chip.jpg",
        "100_0_0_20170112.jpg.chip.jpg",
        "26_1_2_20170104.jpg",
        "1_0_3_2.jpg",
    ]
    names += ["39_1_20170116174525125.jpg.chip.jpg", "portrait.JPG", "1_0_2_20161219_copy.jpg"]
    for name in [*names, ".DS_Store", "read_me_first_now.txt"]:
        put(folder / "images" / name)
    return folder / "images" / names[0]


WATERBIRDS_HEADER = "img_id,img_filename,y,split,place,place_filename\n"


def waterbirds(folder: Path, subfolder: str = "waterbird_complete95_forest2water2") -> Path:
    rows = (
        "1,001.Black_footed_Albatross/Albatross_0009_34.jpg,1,0,0,/b/bamboo_forest/00000131.jpg\n"
        "2,018.Spotted_Catbird/Spotted_Catbird_0001.jpg,0,1,0,/b/bamboo_forest/2.jpg\n"
        "3,018.Spotted_Catbird/Spotted_Catbird_0002.jpg,0,2,1,/o/ocean/00000131.jpg\n"
    )
    return put(folder / subfolder / "metadata.csv", WATERBIRDS_HEADER + rows)


def coco(folder: Path) -> Path:
    document = {
        "info": {"year": 2017},
        "images": [
            {"id": i, "file_name": f"{i:012d}.jpg", "height": 4, "width": 4} for i in (581921, 9, 30, 42)
        ],
        "annotations": [
            {"id": 1, "image_id": 9, "category_id": 1},
            {"id": 2, "image_id": 9, "category_id": 16},
            {"id": 3, "image_id": 581921, "category_id": 17},
            {"id": 4, "image_id": 581921, "category_id": 17},
            {"id": 5, "image_id": 42, "category_id": 88},
        ],
        "categories": [
            {"supercategory": "person", "id": 1, "name": "person"},
            {"supercategory": "animal", "id": 16, "name": "bird"},
            {"supercategory": "animal", "id": 17, "name": "cat"},
            {"supercategory": "indoor", "id": 88, "name": "teddy bear"},
        ],
    }
    return put(folder / "annotations" / "instances_train2017.json", json.dumps(document))


FACET_HEADER = "person_id,filename,class1,class2,bounding_box,visible_torso,visible_face,visible_minimal\n"


def facet(folder: Path) -> Path:
    box = '"{""x"": 1, ""y"": 2, ""width"": 3, ""height"": 4}"'
    rows = [
        ("1", "sa_1.jpg", "guard", "", box, "1", "0", "0"),
        ("2", "sa_2.jpg", "lawman", "guard", box, "1", "1", "0"),
        ("3", "sa_1.jpg", "dancer", "", box, "0", "1", "0"),
        ("4", "sa_2.jpg", "guard", "", box, "1", "1", "0"),
        ("5", "sa_3.jpg", "nurse", "", box, "1", "1", "0"),
    ]
    return put(folder / "annotations.csv", FACET_HEADER + "".join(",".join(row) + "\n" for row in rows))


def imagenet100(folder: Path) -> Path:
    for name in ("n02869837/n02869837_9.JPEG", "n02869837/n02869837_10.JPEG", "n01749939/a.png"):
        put(folder / "train" / name)
    put(folder / "train" / "n02869837" / "notes.txt")
    put(folder / "train" / "n09999999" / "n09999999_1.JPEG")
    return put(folder / "imagenet100.txt", "n02869837\nn03085013\nn01749939\n")


def lfw(folder: Path) -> Path:
    for name in ("Zoe_Ball/Zoe_Ball_0001.jpg", "Al_Gore/Al_Gore_0002.jpg", "Al_Gore/Al_Gore_0001.jpg"):
        put(folder / "images" / name)
    return put(folder / "images" / "readme.txt")


def portraits(folder: Path) -> Path:
    head = "file_name,role,trait,hobby,gender,skin,hair,style,beard,hat,blond"
    text = f"{head}\n00000.png,nurse,shy,hiker,woman,tan,red,long,none,none,not blond\n"
    return put(folder / "labels.csv", text)


FIXTURES: dict[str, Callable[[Path], Path]] = {
    "celeba": celeba,
    "fairface": fairface,
    "utkface": utkface,
    "waterbirds": waterbirds,
    "coco": coco,
    "facet": facet,
    "imagenet100": imagenet100,
    "lfw": lfw,
    "portraits": portraits,
}


def build(dataset: str, folder: Path) -> pd.DataFrame:
    folder.mkdir(exist_ok=True)
    return build_metadata(dataset, folder)


def error(dataset: str, folder: Path) -> str:
    """One line of complaint, after which nothing is written."""
    with pytest.raises(InputError) as caught:
        build(dataset, folder)
    assert not (folder / METADATA).exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what comes out -----------------------------------------------------------------------------------------


def test_there_is_a_builder_for_every_dataset_name() -> None:
    assert sorted(BUILDERS) == sorted(DATASETS)


def test_celeba(tmp_path: Path) -> None:
    celeba(tmp_path)
    table = build("celeba", tmp_path)
    assert list(table.columns) == ["file_name", *CELEBA_ATTRIBUTES, "gender", "file_path"]
    assert list(table["file_name"]) == ["000001.jpg", "000002.jpg", "000003.jpg"]
    assert list(table["file_path"]) == [f"Img/img_align_celeba/00000{i}.jpg" for i in (1, 2, 3)]
    assert list(table["gender"]) == ["Male", "Female", "Male"]
    assert list(table["Blond_Hair"]) == [-1, 1, -1]
    assert list(table["Young"]) == [-1, -1, 1]
    assert table[CELEBA_ATTRIBUTES].to_numpy().sum() == -120 + 2 * 4


def test_fairface_train_rows_come_first(tmp_path: Path) -> None:
    fairface(tmp_path)
    table = build("fairface", tmp_path)
    assert list(table.columns[:5]) == ["file_path", "file_name", "age", "gender", "race"]
    assert list(table["file_path"]) == ["train/1.jpg", "train/2.jpg", "val/1.jpg", "val/2.jpg"]
    assert list(table["file_name"]) == ["1.jpg", "2.jpg", "1.jpg", "2.jpg"]
    assert list(table["age"]) == ["50-59", "0-2", "3-9", "more than 70"]
    assert list(table["gender"]) == ["Male", "Female", "Male", "Female"]
    assert list(table["race"]) == ["Latino_Hispanic", "Middle Eastern", "East Asian", "White"]
    assert list(table["service_test"]) == [True, False, False, True]
    assert list(table.index) == [0, 1, 2, 3]


def test_utkface_reads_names_and_counts_odd_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    utkface(tmp_path)
    table = build("utkface", tmp_path)
    assert table.to_dict("list") == {
        "file_name": [
            "100_0_0_20170112.jpg.chip.jpg",
            "1_0_3_2.jpg",
            "26_1_2_20170104.jpg",
            "9_1_4_20161219.jpg.chip.jpg",
        ],
        "age": [100, 1, 26, 9],
        "gender": ["Male", "Male", "Female", "Female"],
        "race": ["White", "Indian", "Asian", "Latino Hispanic"],
        "file_path": [
            "images/100_0_0_20170112.jpg.chip.jpg",
            "images/1_0_3_2.jpg",
            "images/26_1_2_20170104.jpg",
            "images/9_1_4_20161219.jpg.chip.jpg",
        ],
    }
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("warning: ")
    assert "3 image(s) skipped" in err
    assert "39_1_20170116174525125.jpg.chip.jpg" in err


@pytest.mark.parametrize(
    "subfolder", ["waterbird_complete95_forest2water2", "waterbirds_complete95_forest2water2"]
)
def test_waterbirds_in_either_spelling(tmp_path: Path, subfolder: str) -> None:
    waterbirds(tmp_path, subfolder)
    table = build("waterbirds", tmp_path)
    assert table.to_dict("list") == {
        "file_path": [
            f"{subfolder}/001.Black_footed_Albatross/Albatross_0009_34.jpg",
            f"{subfolder}/018.Spotted_Catbird/Spotted_Catbird_0001.jpg",
            f"{subfolder}/018.Spotted_Catbird/Spotted_Catbird_0002.jpg",
        ],
        "file_name": ["Albatross_0009_34.jpg", "Spotted_Catbird_0001.jpg", "Spotted_Catbird_0002.jpg"],
        "bird type": ["water bird", "land bird", "land bird"],
        "background": ["land background", "land background", "water background"],
        "split": [0, 1, 2],
    }


@pytest.mark.parametrize("place", ["annotations/instances_train2017.json", "instances_train2017.json"])
def test_coco_keeps_images_with_an_animal_once(tmp_path: Path, place: str) -> None:
    text = coco(tmp_path / "source").read_text()
    put(tmp_path / "COCO" / place, text)
    table = build("coco", tmp_path / "COCO")
    assert list(table["file_name"]) == ["000000581921.jpg", "000000000009.jpg"]
    assert list(table["file_path"]) == ["train2017/000000581921.jpg", "train2017/000000000009.jpg"]


@pytest.mark.parametrize("place", ["annotations.csv", "annotations/annotations.csv"])
def test_facet_has_a_row_for_each_visible_person(tmp_path: Path, place: str) -> None:
    text = facet(tmp_path / "source").read_text()
    put(tmp_path / "FACET" / place, text)
    table = build("facet", tmp_path / "FACET")
    assert list(table["person_id"]) == [2, 4, 5]
    assert list(table["file_path"]) == ["images/sa_2.jpg", "images/sa_2.jpg", "images/sa_3.jpg"]
    assert list(table["file_name"]) == ["sa_2.jpg", "sa_2.jpg", "sa_3.jpg"]
    assert list(table.index) == [0, 1, 2]


def test_imagenet100_in_the_order_of_the_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    imagenet100(tmp_path)
    table = build("imagenet100", tmp_path)
    assert table.to_dict("list") == {
        "file_name": ["n02869837_10.JPEG", "n02869837_9.JPEG", "a.png"],
        "class_id": ["n02869837", "n02869837", "n01749939"],
        "file_path": [
            "train/n02869837/n02869837_10.JPEG",
            "train/n02869837/n02869837_9.JPEG",
            "train/n01749939/a.png",
        ],
    }
    err = capsys.readouterr().err
    assert err == f"warning: {tmp_path / 'train'} lacks 1 of 3 classes: n03085013\n"


def test_lfw_is_sorted(tmp_path: Path) -> None:
    lfw(tmp_path)
    table = build("lfw", tmp_path)
    assert list(table["file_path"]) == [
        "images/Al_Gore/Al_Gore_0001.jpg",
        "images/Al_Gore/Al_Gore_0002.jpg",
        "images/Zoe_Ball/Zoe_Ball_0001.jpg",
    ]
    assert list(table["person"]) == ["Al_Gore", "Al_Gore", "Zoe_Ball"]


def test_portraits(tmp_path: Path) -> None:
    portraits(tmp_path)
    [row] = build("portraits", tmp_path).to_dict("records")
    assert row["file_path"] == "images/00000.png"
    assert (row["role"], row["blond"], row["hat"]) == ("nurse", "not blond", "none")


@pytest.mark.parametrize("dataset", FIXTURES)
def test_the_table_is_kept_and_rebuilt_only_on_demand(tmp_path: Path, dataset: str) -> None:
    FIXTURES[dataset](tmp_path)
    table = build(dataset, tmp_path)
    pd.testing.assert_frame_equal(read_metadata(tmp_path / METADATA), table)
    table.iloc[:1].to_feather(tmp_path / METADATA)
    assert len(build_metadata(dataset, tmp_path)) == 1
    rebuilt = build_metadata(dataset, tmp_path, rebuild=True)
    pd.testing.assert_frame_equal(rebuilt, table)
    pd.testing.assert_frame_equal(read_metadata(tmp_path / METADATA), table)


@pytest.mark.parametrize("dataset", ["celeba", "fairface", "utkface", "waterbirds"])
def test_values_are_those_of_the_configs(tmp_path: Path, dataset: str) -> None:
    FIXTURES[dataset](tmp_path)
    table = build(dataset, tmp_path)
    for setting in load_dataset_config(ROOT / "config" / f"{dataset}.yml").settings.values():
        for labels in filter(None, [setting.bias, setting.target]):
            assert set(table[labels.column]) <= set(labels.values)
        for column, _ in setting.query_labels.values():
            assert column in table
    if dataset == "fairface":
        races = load_dataset_config(ROOT / "config" / "fairface.yml").settings["stereotype_race"].bias.values
        assert races == FAIRFACE_RACES


# --- bad input ----------------------------------------------------------------------------------------------


def test_a_missing_dataset_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dataset folder not found: .*absent; see data/README\.md"):
        build_metadata("lfw", tmp_path / "absent")


@pytest.mark.parametrize(
    ("dataset", "named"),
    [
        ("celeba", "label file not found: {}/Anno/list_attr_celeba.txt; see data/README.md"),
        ("fairface", "label file not found: {}/fairface_label_train.csv; see data/README.md"),
        ("utkface", "image folder not found: {}/images; see data/README.md"),
        ("waterbirds", "label file not found: {}/waterbird_complete95_forest2water2/metadata.csv or "),
        ("coco", "label file not found: {}/annotations/instances_train2017.json or "),
        ("facet", "label file not found: {}/annotations.csv or "),
        ("imagenet100", "label file not found: {}/imagenet100.txt; see data/README.md"),
        ("lfw", "image folder not found: {}/images; see data/README.md"),
        ("portraits", "label file not found: {}/labels.csv; see data/README.md"),
    ],
)
def test_missing_label_files_are_named(tmp_path: Path, dataset: str, named: str) -> None:
    message = error(dataset, tmp_path)
    assert named.format(tmp_path) in message
    assert "see data/README.md" in message


def test_the_validation_list_of_fairface_is_needed_too(tmp_path: Path) -> None:
    fairface(tmp_path)
    (tmp_path / "fairface_label_val.csv").unlink()
    assert "fairface_label_val.csv" in error("fairface", tmp_path)


@pytest.mark.parametrize(
    ("dataset", "column"),
    [
        ("celeba", "Male"),
        ("fairface", "race"),
        ("waterbirds", "place"),
        ("facet", "visible_face"),
        ("portraits", "hobby"),
    ],
)
def test_a_missing_column_is_named(tmp_path: Path, dataset: str, column: str) -> None:
    path = FIXTURES[dataset](tmp_path)
    path.write_text(path.read_text().replace(column, "renamed"))
    message = error(dataset, tmp_path)
    assert message.startswith(f"{path} lacks the column(s) {column}; ")
    assert "renamed" in message


@pytest.mark.parametrize("key", ["images", "annotations", "categories", "supercategory", "image_id"])
def test_coco_lacking_a_key(tmp_path: Path, key: str) -> None:
    path = coco(tmp_path)
    path.write_text(path.read_text().replace(f'"{key}"', '"renamed"'))
    assert error("coco", tmp_path) == (
        f"{path} lacks the key '{key}'; it must be COCO's instances_train2017.json"
    )


@pytest.mark.parametrize(("text", "complaint"), [("{", "is not valid JSON"), ("[]", "is not in COCO's form")])
def test_coco_in_another_form(tmp_path: Path, text: str, complaint: str) -> None:
    coco(tmp_path).write_text(text)
    assert complaint in error("coco", tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "line", "complaint"),
    [
        (
            "000002.jpg -1",
            "000002.jpg",
            4,
            "an image name and 40 values -1 or 1 are needed, found '000002.jpg",
        ),
        ("000002.jpg -1", "000002.jpg 0", 4, "an image name and 40 values -1 or 1 are needed"),
        ("000003.jpg", "000003.jpg 1", 5, "an image name and 40 values -1 or 1 are needed"),
        ("3\r\n5_o", "4\r\n5_o", 1, "says it has '4' images, but it lists 3"),
        ("3\r\n5_o", "three\r\n5_o", 1, "says it has 'three' images, but it lists 3"),
    ],
)
def test_malformed_lines_of_celeba(tmp_path: Path, old: str, new: str, line: int, complaint: str) -> None:
    path = celeba(tmp_path)
    text = path.read_bytes().decode()
    assert text.count(old) == 1
    path.write_bytes(text.replace(old, new).encode())
    message = error("celeba", tmp_path)
    assert message.startswith(f"{path}, line {line}: ")
    assert complaint in message


@pytest.mark.parametrize(
    ("dataset", "old", "new", "line", "complaint"),
    [
        (
            "fairface",
            "train/2.jpg,0-2,Female",
            "train/2.jpg,0-2,F",
            3,
            "'gender' is 'F'; allowed: Male, Female",
        ),
        ("fairface", "Middle Eastern", "Martian", 3, "'race' is 'Martian'; allowed: Black, East Asian"),
        ("fairface", "train/1.jpg,", ",", 2, "'file' is empty"),
        ("waterbirds", "1.jpg,0,1,0", "1.jpg,2,1,0", 3, "'y' is '2'; allowed: 0, 1"),
        ("waterbirds", "2.jpg,0,2,1", "2.jpg,0,2,x", 4, "'place' is 'x'; allowed: 0, 1"),
        ("waterbirds", "2.jpg,0,2,1", "2.jpg,0,3,1", 4, "'split' is '3'; allowed: 0, 1, 2"),
        ("facet", "1,1,0\n3,", "1,maybe,0\n3,", 3, "'visible_face' is 'maybe'; allowed: 0, 1"),
        ("facet", "5,sa_3.jpg", "5,", 6, "'filename' is empty"),
        ("imagenet100", "n03085013", "tench", 2, "a WordNet id like n01440764 is needed, found 'tench'"),
    ],
)
def test_malformed_lines_are_numbered(
    tmp_path: Path, dataset: str, old: str, new: str, line: int, complaint: str
) -> None:
    path = FIXTURES[dataset](tmp_path)
    assert path.read_text().count(old) == 1
    path.write_text(path.read_text().replace(old, new))
    message = error(dataset, tmp_path)
    assert message.startswith(f"{path}, line {line}: ")
    assert complaint in message


def test_blank_lines_do_not_count_but_are_counted(tmp_path: Path) -> None:
    path = waterbirds(tmp_path)
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, rows[0], "", rows[1], rows[2].replace(",1,/", ",7,/"), "", ""]))
    assert f"{path}, line 5: 'place' is '7'" in error("waterbirds", tmp_path)
    path.write_text(path.read_text().replace(",7,/", ",1,/"))
    assert len(build("waterbirds", tmp_path)) == 3


def test_a_row_with_too_many_fields_is_numbered(tmp_path: Path) -> None:
    path = waterbirds(tmp_path)
    path.write_text(path.read_text() + "4,a.jpg,0,0,0,b.jpg,more\n")
    message = error("waterbirds", tmp_path)
    assert f"cannot be read as a table: {path}" in message
    assert "line 5" in message


@pytest.mark.parametrize("dataset", ["celeba", "imagenet100"])
def test_binary_label_files(tmp_path: Path, dataset: str) -> None:
    path = FIXTURES[dataset](tmp_path)
    path.write_bytes(b"\xff\xfe\x00")
    assert f"label file is not text: {path}" in error(dataset, tmp_path)


@pytest.mark.parametrize("name", ["25_2_0_2017.jpg", "25_0_5_2017.jpg", "x_0_0_2017.jpg", "25_0_-1_2017.jpg"])
def test_unknown_codes_in_utkface_names(tmp_path: Path, name: str) -> None:
    utkface(tmp_path)
    path = put(tmp_path / "images" / name)
    assert error("utkface", tmp_path).startswith(
        f"{path}: the name must be <age>_<gender 0-1>_<race 0-4>_<date>.jpg"
    )


@pytest.mark.parametrize("dataset", FIXTURES)
def test_no_rows(tmp_path: Path, dataset: str) -> None:
    path = FIXTURES[dataset](tmp_path)
    if dataset in ("utkface", "lfw"):
        for image in (tmp_path / "images").rglob("*.*"):
            image.unlink()
    elif dataset == "coco":
        path.write_text('{"images": [], "annotations": [], "categories": []}')
    elif dataset == "celeba":
        path.write_text(f"0\n{CELEBA_HEADER}\n")
    elif dataset == "imagenet100":
        path.write_text("\n")
    else:
        for table in path.parent.glob("*.csv"):
            table.write_text(table.read_text().splitlines()[0] + "\n")
    assert error(dataset, tmp_path) == (
        f"the label files in {tmp_path} name no image; see data/README.md for the expected tree"
    )


def test_a_damaged_metadata_file_is_not_taken_for_missing(tmp_path: Path) -> None:
    lfw(tmp_path)
    (tmp_path / METADATA).write_bytes(b"ARROW1 but cut off")
    with pytest.raises(InputError, match="metadata cannot be read"):
        build_metadata("lfw", tmp_path)
    assert len(build_metadata("lfw", tmp_path, rebuild=True)) == 3
