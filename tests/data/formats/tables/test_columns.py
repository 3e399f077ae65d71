"""Which column of a table means what."""

from __future__ import annotations

import pytest

from foveal.data.formats.rows import find_delimiter, first_rows
from foveal.data.formats.tables.columns import find_columns

ROW = {
    "image": "a.jpg",
    "class": "cat",
    "x1": "4",
    "y1": "5",
    "x2": "20",
    "y2": "30",
    "width": "64",
    "height": "48",
}


@pytest.mark.parametrize(
    ("header", "roles"),
    [
        ("filename,width,height,class,xmin,ymin,xmax,ymax", "image width height class x1 y1 x2 y2"),
        ("filename,cell_type,xmin,xmax,ymin,ymax", "image class x1 x2 y1 y2"),
        ("ImageID,LabelName,XMin,XMax,YMin,YMax", "image class x1 x2 y1 y2"),
        ("image;label;x1;y1;x2;y2", "image class x1 y1 x2 y2"),
        ("Image Path,Class Name,X Min,Y Min,X Max,Y Max", "image class x1 y1 x2 y2"),
        ("image,xmin,ymin,xmax,ymax,label", "image x1 y1 x2 y2 class"),
        ("image_id,x0,y0,x1,y1,category", "image x1 y1 x2 y2 class"),
        ("img_path,left,top,right,bottom,name", "image x1 y1 x2 y2 class"),
    ],
)
def test_names_in_any_spelling(header: str, roles: str) -> None:
    delimiter = find_delimiter(header)
    names = header.split(delimiter)
    columns = find_columns([names, [ROW[role] for role in roles.split()]])
    assert columns is not None and columns.layout == "corners"
    assert columns.at == {role: k for k, role in enumerate(roles.split())}


@pytest.mark.parametrize(
    ("header", "layout"),
    [
        ("file,x,y,w,h,label", "top-left"),
        ("file,xmin,ymin,width,height,label", "top-left"),
        ("file,left,top,width,height,label", "top-left"),
        ("file,bbox_x,bbox_y,bbox_width,bbox_height,label", "top-left"),
        ("file,x_center,y_center,width,height,label", "centers"),
        ("file,cx,cy,w,h,label", "centers"),
    ],
)
def test_layouts_of_boxes(header: str, layout: str) -> None:
    columns = find_columns([header.split(","), ["a.jpg", "4", "5", "20", "30", "cat"]])
    assert columns is not None and columns.layout == layout and not columns.guessed and "width" not in columns.at


def test_a_column_of_names_rather_than_numbers() -> None:
    columns = find_columns(first_rows(b"file,class,class_name,x1,y1,x2,y2\na.jpg,0,cat,4,5,20,30\n", True))
    assert columns is not None and columns.at["class"] == 2 and columns.ignored == ("class",)


@pytest.mark.parametrize(
    ("row", "roles"),
    [
        ("img/a.jpg,4,5,20,30,cat", "image x1 y1 x2 y2 class"),
        ("img/a.jpg,cat,4,5,20,30", "image class x1 y1 x2 y2"),
        ("a.jpg,64,48,cat,4,5,20,30", "image width height class x1 y1 x2 y2"),
        ("cat,4,5,20,30,a.jpg,64,48", "class x1 y1 x2 y2 image width height"),
        ("TRAIN,gs://b/a.jpg,cat,.1,.2,,,.3,.4,,", "split image class x1 y1 None None x2 y2 None None"),
    ],
)
def test_tables_without_a_header(row: str, roles: str) -> None:
    columns = find_columns([row.split(",")])
    expected = {role: k for k, role in enumerate(roles.split()) if role != "None"}
    assert columns is not None and columns.at == expected and columns.guessed


@pytest.mark.parametrize(
    "text",
    [
        "name,age\nann,5\n",
        "image,label\na.jpg,cat\n",
        "a.jpg,20,30,-4,5,cat\n",  # no box: its width is negative
        "image_id,PredictionString\na,1.0 0 0 1 1\n",
        "/m/01g317,Person\n/m/04bcr3,Table\n",
        "",
        "\n\n",
        "\0\1\2",
    ],
)
def test_other_tables(text: str) -> None:
    assert find_columns(first_rows(text.encode(), True)) is None


def test_one_corner_and_a_size_without_a_header() -> None:
    columns = find_columns(first_rows(b"a.jpg,20,30,4,5,cat\nb.jpg,4,5,20,30,dog\n", True))
    assert columns is not None and columns.layout == "top-left" and "width, height" in columns.guessed[0]


def test_the_size_of_the_image_beside_a_bbox() -> None:
    """As in Kaggle's wheat: the source of an image is no class."""
    text = b'image_id,width,height,bbox,source\na,1024,1024,"[1.0, 2.0, 3.0, 4.0]",usask_1\n'
    columns = find_columns(first_rows(text, True))
    assert columns is not None and columns.layout == "top-left" and "class" not in columns.at
    assert columns.at["width"] == 1 and columns.ignored == ("source",)


def test_delimiters() -> None:
    assert find_delimiter("a;b;c\n1,5;2,5;3\n") == ";" and find_delimiter("a\tb\n1\t2\n") == "\t"
    assert find_delimiter('a,"x;y;z;w"\nb,"x;y;z;w"\n') == "," and find_delimiter("") == ","
