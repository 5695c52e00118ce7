"""Reports in a real browser: nothing asked for, nothing said, nothing cut off."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from brainchop_pipe.report.content import Distribution, GroupPage, GroupRow, ParticipantPage
from brainchop_pipe.report.pages import group_html, participant_html
from browser import Browser
from report.test_pages import HOSTILE, PAGE, SECTION, make_png

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def hostile_participant() -> ParticipantPage:
    sections = (SECTION, replace(SECTION, image=HOSTILE, flags=(HOSTILE,), warnings=(HOSTILE,), alt=HOSTILE))
    return replace(PAGE, name=HOSTILE, sections=sections)


def hostile_group() -> GroupPage:
    rows = tuple(
        GroupRow(f"{HOSTILE} {n}", "done", "./sub-01.html", make_png(210, 90), (HOSTILE,), (), (n, None))
        for n in (3, 1, 2)
    )
    points = tuple((float(n), HOSTILE, "./sub-01.html", n == 9) for n in range(10))
    return GroupPage(HOSTILE, ("A", "B"), rows, (Distribution("A", "mL", points),), (HOSTILE,), "1")


PAGES = {
    "participant": lambda: participant_html(hostile_participant()),
    "group": lambda: group_html(hostile_group()),
}


@pytest.mark.parametrize("kind", PAGES)
@pytest.mark.parametrize("width", [1280, 400])
def test_page_is_whole_says_nothing_and_asks_for_nothing(browser, tmp_path, kind, width):
    path = tmp_path / "page.html"
    path.write_bytes(PAGES[kind]())
    browser.open(path, width)
    assert browser.requests == []
    assert browser.messages == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("[...document.images].every(i => i.naturalWidth > 0 && i.alt)")
    assert browser.evaluate("document.scripts.length") == 0
    assert browser.evaluate("document.querySelector('h1').textContent") == HOSTILE


def shown_order(browser: Browser) -> list[str]:
    """Names in the table from the top as they are seen."""
    return browser.evaluate(
        "[...document.querySelectorAll('table.group tbody tr')]"
        ".sort((a, b) => a.getBoundingClientRect().top - b.getBoundingClientRect().top)"
        ".map(r => r.cells[1].textContent.trim().slice(-1))"
    )


def test_table_is_sorted_without_script(browser, tmp_path):
    path = tmp_path / "page.html"
    path.write_bytes(PAGES["group"]())
    browser.open(path, 1280)
    assert shown_order(browser) == ["3", "1", "2"]
    browser.evaluate("document.getElementById('sort-1').checked = true")
    assert shown_order(browser) == ["1", "2", "3"]
    browser.evaluate("document.getElementById('sort-2').checked = true")
    assert shown_order(browser) == ["3", "2", "1"]


def test_policy_stops_what_slips_through(browser, tmp_path):
    """A page with a script and a picture from elsewhere, as if escaping had failed."""
    text = participant_html(hostile_participant()).decode()
    bad = text.replace(
        "</main>", '<script>document.title = "run"</script><img src="http://127.0.0.1:9/x"></main>'
    )
    (tmp_path / "page.html").write_text(bad)
    browser.open(tmp_path / "page.html", 1280)
    assert browser.evaluate("document.title") != "run"
    assert any("Content Security Policy" in message for message in browser.messages)
    assert not any(
        e["method"] == "Network.responseReceived" and "127.0.0.1" in str(e) for e in browser.events
    )
