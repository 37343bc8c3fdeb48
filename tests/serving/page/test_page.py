"""The page in a real Chromium with a real server. Screenshots go to ``artefacts/`` for inspection."""

import time
from pathlib import Path

import pytest
from browser import CHROMIUM, OPTIONS, Watched, free_port, server

from lanner.serving.http.keys import create

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")

ARTEFACTS = Path(__file__).parents[3] / "artefacts"
REFUSED = "429 (Too Many Requests)"
CONTRAST = """() => {
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => [r, g, b].map((c) => linear(c / 255))
    .reduce((sum, c, place) => sum + c * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const color = numbers(getComputedStyle(at).backgroundColor);
      if (color.length === 3 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const texts = [...document.querySelectorAll("body *")].filter((one) =>
    one.checkVisibility() && !one.matches(":disabled, svg *")
    && [...one.childNodes].some((child) => child.nodeType === 3 && child.data.trim()));
  return texts.map((one) => {
    const [high, low] = [light(numbers(getComputedStyle(one).color)), light(behind(one))].sort((a, b) => b - a);
    return [one.textContent.trim().slice(0, 40), (high + 0.05) / (low + 0.05)];
  });
}"""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    port = free_port()
    with server(tmp_path_factory.mktemp("server") / "log", port):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def tab_at(browser):
    """Opens tabs, and closes them whatever came: a load that goes on would fall on the tests after this one."""
    opened = []

    def tab_at(origin, **options):
        opened.append(Watched(browser, origin, **options))
        return opened[-1]

    yield tab_at
    for tab in opened:
        tab.context.close()


@pytest.fixture
def watched(tab_at, origin):
    tab = tab_at(origin)
    yield tab
    assert tab.unwanted(allowed=REFUSED) == []


def titles(page):
    return page.locator(".item h3").evaluate_all("all => all.map((one) => one.firstChild.data)")


def recommend(page, user="", text=""):
    page.fill("#user", user)
    page.fill("#text", text)
    page.click("#recommend [type=submit]")
    page.wait_for_selector(".item")


def news(page, part):
    page.wait_for_function("part => document.getElementById('news').textContent.includes(part)", arg=part)


def test_a_user_gets_items_with_their_reasons_and_what_made_them(watched):
    page = watched.page
    page.fill("#k", "4")
    recommend(page, "ada")
    news(page, "4 items: For ada")
    assert len(titles(page)) == 4
    assert page.inner_text("#results-heading") == "For ada"
    assert "recommended because you chose" in page.inner_text(".item:first-child .because")
    assert page.inner_text("#served").startswith("full on openvino")
    assert page.locator(".times span").count() == 6
    assert "ranking head" in page.inner_text("#legend")


def test_the_bar_of_reasons_adds_up_and_has_a_text(watched):
    page = watched.page
    recommend(page, "grace")
    for row in page.locator(".item").all():
        spoken = row.locator(".bar").get_attribute("aria-label")
        values = [float(part.rsplit(" ", 1)[1].replace("−", "-")) for part in spoken.split("; ")]
        assert sum(values) == pytest.approx(float(row.locator(".score").inner_text().split()[-1]), abs=0.03)
        assert row.locator(".segment").count() == len(values)
    first = page.locator(".bar").first
    zero, ends = first.locator(".zero").bounding_box()["x"], {"history": 1, "head": -1}
    for kind, side in ends.items():
        box = first.locator(f".segment[data-kind={kind}]").first.bounding_box()
        assert (box["x"] + box["width"] / 2 - zero) * side > 0
    assert not first.locator(".parts").is_visible()
    first.focus()
    assert first.locator(".parts").is_visible()
    page.keyboard.press("Escape")
    assert not first.locator(".parts").is_visible()


def test_a_number_that_rounds_to_zero_is_not_negative(watched):
    shown = """import("/scripts/numbers.js").then((numbers) =>
      [-0.001, -0.0, 0.001, -0.25].flatMap((value) => [numbers.decimal(value), numbers.signed(value)]))"""
    assert watched.page.evaluate(shown) == ["0.00", "+0.00", "0.00", "+0.00", "0.00", "+0.00", "-0.25", "−0.25"]


def test_an_answer_says_that_nobody_knows_the_user(watched):
    page = watched.page
    recommend(page, "nobody")
    assert "Popular items: nothing is known about this user." in page.inner_text("#served")
    assert "Unknown ids: nobody" in page.inner_text("#served")
    recommend(page, "ada")
    page.wait_for_selector("#served .note", state="detached")


def test_without_reasons_none_are_drawn(watched):
    page = watched.page
    page.uncheck("#explain")
    recommend(page, "ada")
    assert (page.locator(".bar").count(), page.locator("#legend").is_visible()) == (0, False)


def test_a_text_alone_is_enough_but_has_nobody_whose_event_it_could_be(watched):
    page = watched.page
    recommend(page, text="horror in space")
    assert titles(page)[0] in ("Alien (1979)", "The Thing (1982)")
    assert page.locator(".doing button:disabled").count() == 10
    assert page.locator(".doing button:enabled").count() == 10


def test_a_filter_is_honoured(watched):
    page = watched.page
    page.click("#filters summary")
    page.check("#filters input[value=Comedy]")
    assert "1 selected" in page.inner_text("#filters summary")
    recommend(page, "grace")
    assert set(titles(page)) == {"Some Like It Hot (1959)", "The Apartment (1960)", "The Sting (1973)"}


def test_an_event_changes_the_list_and_the_page_says_how(watched):
    page = watched.page
    page.fill("#k", "5")
    recommend(page, "bob")
    before = titles(page)
    page.click(".item:nth-child(2) .doing button:first-child")
    news(page, "Event stored")
    after = titles(page)
    assert before[1] not in after
    assert f"1 removed ({before[1]})" in page.inner_text("#changes")
    came = [title for title in after if title not in before]
    marked = page.locator(".item[data-mark=new] h3").evaluate_all("all => all.map((one) => one.firstChild.data)")
    assert marked == came
    assert page.locator(".item[data-mark]").count() >= 1
    sent = [one.post_data_json for one in watched.requests if one.url.endswith("/v1/events")]
    assert len(sent) == 1
    assert len(sent[0]["events"][0]["key"]) == 32


def test_an_event_that_was_not_answered_is_sent_again_with_its_key(watched):
    page = watched.page
    recommend(page, "linus")
    page.route("**/v1/events", lambda route: route.fulfill(status=503, json={"error": "the disk is full"}))
    button = page.locator(".item:first-child .doing button").first
    button.click()
    page.wait_for_selector(".item:first-child .error:visible")
    assert page.inner_text(".item:first-child .error") == "the disk is full"
    page.unroute("**/v1/events")
    button.click()
    news(page, "Event stored")
    first, second = (one.post_data for one in watched.requests if one.url.endswith("/v1/events"))
    assert first == second
    watched.complaints[:] = [line for line in watched.complaints if "503" not in line]


def test_similar_items_and_the_way_back(watched):
    page = watched.page
    recommend(page, "ada")
    title = titles(page)[2]
    page.click(".item:nth-child(3) .doing button:last-child")
    news(page, f"Similar to {title}")
    assert title not in titles(page)
    assert page.evaluate("document.activeElement.id") == "results-heading"
    page.click("#back")
    news(page, "For ada")
    assert not page.is_visible("#back")


def test_search_with_and_without_a_user(watched):
    page = watched.page
    page.fill("#words", "fantasy & <b>adventure</b>?")
    page.click("#search [type=submit]")
    news(page, "Results for")
    assert titles(page)[0] == "Spirited Away (2001)"
    assert page.inner_text("#results-heading") == "Results for “fantasy & <b>adventure</b>?”"
    page.check("#for-user")
    page.click("#search [type=submit]")
    assert "enter a user above" in page.inner_text("#search .error")
    page.fill("#user", "ada")
    page.click("#search [type=submit]")
    news(page, "for ada")
    assert not page.is_visible("#search .error")


def test_the_whole_way_by_the_keyboard(watched):
    page = watched.page
    press = page.keyboard.press

    def tab_to(selector):
        for _ in range(60):
            press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert outline != "none", selector
                return
        raise AssertionError(f"{selector} is not reached")

    tab_to("#user")
    page.keyboard.type("mary")
    press("Enter")
    news(page, "For mary")
    tab_to(".item:first-child .bar")
    assert page.locator(".item:first-child .parts").is_visible()
    tab_to(".item:first-child .doing button")
    press("Enter")
    news(page, "Event stored")
    assert page.evaluate("document.activeElement !== document.body")
    tab_to(".item .doing button.quiet")
    press("Space")
    news(page, "Similar to")
    page.focus("#load input:checked")
    press("ArrowRight")
    assert page.evaluate("document.activeElement.value") == "1"
    press("ArrowLeft")


def test_the_servers_line_stands_where_it_was_asked(watched):
    page = watched.page
    page.click("#recommend [type=submit]")
    assert "enter a user" in page.inner_text("#recommend .error")
    page.fill("#user", "unknown")
    page.click("#recommend [type=submit]")
    page.wait_for_selector("#recommend .error:has-text('is not known')")
    assert page.inner_text("#recommend .error") == "the user 'unknown' is not known; give a history"
    page.fill("#user", "ada")
    page.fill("#k", "0")
    page.click("#recommend [type=submit]")
    page.wait_for_selector("#recommend .error:has-text('received 0')")
    page.fill("#k", "3")
    recommend(page, "ada")
    assert not page.is_visible("#recommend .error")
    watched.complaints[:] = [line for line in watched.complaints if "404" not in line and "400" not in line]


def test_a_refusal_is_waited_out(watched):
    page = watched.page
    page.fill("#user", "overloaded")
    page.click("#recommend [type=submit]")
    page.wait_for_selector("#recommend .error:visible")
    assert page.inner_text("#recommend .error") == "too many wait; ask again (retry in 3 s)"
    assert page.is_disabled("#recommend [type=submit]")
    page.wait_for_selector("#recommend [type=submit]:enabled", timeout=5000)


def test_load_moves_the_charts_and_the_counters(watched):
    page = watched.page
    page.wait_for_selector("#examples button")
    page.click("#load label:has([value='64'])")
    page.wait_for_selector("#load-counts:text-matches('[1-9][0-9,]* answered · [1-9][0-9,]* rejected')")
    page.wait_for_selector(".chart svg:not([aria-label*='all 0,']) >> nth=0")
    page.wait_for_function("() => document.querySelectorAll('.chart .line, .chart .area').length >= 6")
    fills = page.locator(".chart .area").evaluate_all("all => all.map((one) => getComputedStyle(one).fill)")
    assert "rgb(0, 0, 0)" not in fills, "every variant and backend has a colour"
    page.click("#load label:has([value='0'])")
    page.wait_for_timeout(1500)
    before = page.inner_text("#load-counts")
    page.wait_for_timeout(700)
    assert page.inner_text("#load-counts") == before
    assert "six requests at a time" in page.inner_text("#load-line")


def test_the_charts_show_a_gap_while_the_server_is_away_and_go_on(tab_at, tmp_path):
    port = free_port()
    with server(tmp_path / "first", port):
        tab = tab_at(f"http://127.0.0.1:{port}")
        recommend(tab.page, "ada")
        tab.page.wait_for_timeout(1500)
    tab.page.wait_for_selector("#state[data-state=silent]")
    assert "the server cannot be reached" in tab.page.inner_text("#state")
    tab.page.wait_for_timeout(1500)
    tab.page.click("#recommend [type=submit]")
    tab.page.wait_for_selector("#recommend .error:visible")
    assert tab.page.locator(".item").count() == 10
    with server(tmp_path / "second", port):
        tab.page.wait_for_selector("#state[data-state=answering]")
        tab.page.wait_for_timeout(1500)
        queue = tab.page.locator(".chart").nth(2).locator(".line")
        assert queue.count() == 2, "one line before the gap, one after it"
        assert tab.page.evaluate("window.violations") == []


def test_a_server_with_keys_is_asked_with_the_key_of_this_tab_alone(tab_at, tmp_path):
    keys, port = tmp_path / "keys", free_port()
    known = create(keys, "write", "page")
    with server(tmp_path / "log", port, LANNER_TEST_KEYS=str(keys)):
        tab = tab_at(f"http://127.0.0.1:{port}")
        page = tab.page
        page.wait_for_selector("#key-form:visible")
        assert "unknown API key" in page.inner_text("#key-error")
        asked = len([one for one in tab.requests if "status" in one.url])
        page.wait_for_timeout(2200)
        assert len([one for one in tab.requests if "status" in one.url]) == asked == 1
        page.fill("#key", "wrong")
        page.press("#key", "Enter")
        page.wait_for_selector("#key-error:visible")
        page.fill("#key", known)
        page.press("#key", "Enter")
        page.wait_for_selector("#state[data-state=answering]")
        recommend(page, "ada")
        page.click(".item:first-child .doing button")
        news(page, "Event stored")
        assert known in page.evaluate("Object.values(sessionStorage)")
        assert known not in page.content() + page.url + str(page.evaluate("({...localStorage})"))
        assert tab.unwanted(allowed="401") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast_in_both_schemes(tab_at, origin, scheme):
    tab = tab_at(origin, color_scheme=scheme)
    recommend(tab.page, "ada")
    tab.page.click(".item:first-child .doing button")
    news(tab.page, "Event stored")
    tab.page.wait_for_timeout(2600)  # The marked items have faded to their lasting colours.
    ratios = tab.page.evaluate(CONTRAST)
    assert len(ratios) > 60
    assert [one for one in ratios if one[1] < 4.5] == []


def test_the_choice_of_dark_is_kept(tab_at, origin):
    tab = tab_at(origin, color_scheme="light")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = tab.page.evaluate(paper)
    tab.page.click("#theme")
    dark = tab.page.evaluate(paper)
    assert light != dark
    tab.page.reload()
    assert tab.page.evaluate(paper) == dark
    assert tab.page.get_attribute("#theme", "aria-pressed") == "true"
    tab.page.click("#theme")
    assert tab.page.evaluate(paper) == light
    assert tab.unwanted() == []


def test_every_control_has_a_name(watched):
    page = watched.page
    recommend(page, "ada")
    nameless = """() => [...document.querySelectorAll("input, textarea, button")]
        .filter((one) => !(one.labels?.length || one.getAttribute("aria-label") || one.textContent.trim()))
        .map((one) => one.outerHTML)"""
    assert page.evaluate(nameless) == []


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("light", {}),
        ("dark", {"color_scheme": "dark"}),
        ("narrow", {"viewport": {"width": 390, "height": 844}}),
    ],
)
def test_pictures_are_taken_and_nothing_is_wider_than_the_page(tab_at, origin, name, options):
    tab = tab_at(origin, **options)
    page = tab.page
    page.wait_for_selector("#examples button")
    for level in ("16", "4", "0"):
        page.click(f"#load label:has([value='{level}'])")
        page.wait_for_timeout(1500)
    recommend(page, "ada", "a noir mystery")
    page.click(".item:nth-child(2) .doing button")
    news(page, "Event stored")
    page.focus(".item:nth-child(4) .bar")
    time.sleep(2.6)
    ARTEFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTEFACTS / f"page-{name}.png", full_page=name == "narrow")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert tab.unwanted(allowed=REFUSED) == []
