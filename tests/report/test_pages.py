"""What pages hold, and what they must not."""

import base64
import hashlib
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image

from brainchop_pipe.report.content import (
    Distribution,
    Failure,
    GroupPage,
    GroupRow,
    LegendEntry,
    ParticipantPage,
    Section,
    VolumeRow,
)
from brainchop_pipe.report.pages import MOST_PICTURES, group_html, participant_html

# Markup, both quotes, an entity, text from right to left, and no place to break a line.
HOSTILE = "<script>alert('1')</script>\" onload=x &amp; \u202eשלום " + "x" * 300


def make_png(width: int = 8, height: int = 4) -> bytes:
    content = io.BytesIO()
    Image.new("P", (width, height)).save(content, "PNG")
    return content.getvalue()


SECTION = Section(
    image="sub-01_T1w.nii.gz",
    segmentation="tissues",
    picture=make_png(1400, 600),
    alt="Slices",
    legend=(LegendEntry("Grey matter", "#D55E00"),),
    flags=(),
    warnings=(),
    volumes=(VolumeRow(1, "Grey matter", 600.0, 0.4), VolumeRow(2, "White matter", 500.0, None)),
    facts=(("Mean confidence", "0.9"),),
    seconds=(("conform", "0.3 s"),),
    provenance=(("Command", "brainchop"),),
)
PAGE = ParticipantPage("sub-01", (SECTION,), (), "Images were segmented.", ("A reference",), "1.0")


class Text(HTMLParser):
    """Tags, attributes and text of a page as a browser would take them."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.tags, self.attributes, self.text = set(), set(), ""
        self.feed(content.decode())

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


def hostile_pages() -> list[bytes]:
    pair = ((HOSTILE, HOSTILE),)
    section = Section(
        *(HOSTILE, HOSTILE, make_png(), HOSTILE, (LegendEntry(HOSTILE, "#D55E00"),), (HOSTILE,), (HOSTILE,)),
        *((VolumeRow(1, HOSTILE, 1.0, 0.5),), pair, pair, pair),
    )
    page = ParticipantPage(
        HOSTILE, (section,), (Failure(HOSTILE, HOSTILE, HOSTILE),), HOSTILE, (HOSTILE,), HOSTILE
    )
    row = GroupRow(HOSTILE, "failed", "./x", make_png(), (HOSTILE,), (HOSTILE,) * 7, (1.0,))
    distribution = Distribution(HOSTILE, HOSTILE, ((1.0, HOSTILE, "./x", True), (2.0, HOSTILE, "./x", False)))
    group = GroupPage(HOSTILE, (HOSTILE,), (row,), (distribution,), (HOSTILE,), HOSTILE)
    return [participant_html(page), group_html(group)]


@pytest.mark.parametrize("content", hostile_pages(), ids=["participant", "group"])
def test_hostile_values_are_shown_as_text(content):
    page = Text(content)
    assert not page.tags & {"script", "iframe", "object", "embed", "form"}
    assert not {name for name in page.attributes if name.startswith("on")}
    assert page.text.count(HOSTILE) >= 5


@pytest.mark.parametrize("content", hostile_pages(), ids=["participant", "group"])
def test_policy_allows_the_page_its_own_style_and_pictures_alone(content):
    text = content.decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1].replace("&#39;", "'")
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert f"'sha256-{digest}'" in policy
    assert "http" not in "".join(re.findall(r'(?:src|href)="([^"]*)"', text))


def test_failures_and_flags_decide_the_verdict():
    assert "nothing looks wrong to the program" in participant_html(PAGE).decode()
    flagged = replace(PAGE, sections=(replace(SECTION, flags=("One.", "Two.")),))
    assert "to look at: 2" in participant_html(flagged).decode()
    failed = replace(PAGE, failures=(Failure("image", "model", "It broke."),))
    text = participant_html(failed).decode()
    assert "failed: 1" in text
    assert "nothing looks wrong" not in text


def test_label_map_without_picture_says_so():
    page = replace(PAGE, sections=(replace(SECTION, picture=None),), methods="")
    assert "There is no picture" in participant_html(page).decode()


def test_many_labels_are_folded_away():
    legend = tuple(LegendEntry(f"Label {n}", "#000000") for n in range(20))
    volumes = tuple(VolumeRow(n, f"Label {n}", 1.0, None) for n in range(20))
    page = replace(PAGE, sections=(replace(SECTION, legend=legend, volumes=volumes),))
    assert participant_html(page).decode().count("<details>") == 3


def group(rows: tuple[GroupRow, ...], values: range = range(3)) -> str:
    points = tuple((float(n), f"image {n}", "./x.html", n == 0) for n in values)
    return group_html(GroupPage("A", ("B",), rows, (Distribution("B", "mL", points),), (), "1")).decode()


def test_rows_have_their_place_in_each_order():
    rows = tuple(
        GroupRow(name, "done", "", None, (), (), (value,)) for name, value in (("b", 1.0), ("a", None))
    )
    text = group(rows)
    assert "--o0:0;--o1:1;--o2:0" in text
    assert "--o0:1;--o1:0;--o2:1" in text


def test_large_studies_show_pictures_of_the_worst_and_dots_of_the_odd():
    row = GroupRow("a", "done", "", make_png(), (), (), (1.0,))
    text = group((row,) * (MOST_PICTURES + 1), range(1000))
    assert f"Pictures are shown of the {MOST_PICTURES} worst" in text
    assert text.count("<circle") == 1
    assert group((row,)).count("<circle") == 3
