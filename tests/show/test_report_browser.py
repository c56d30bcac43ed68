"""The report page in Chromium: it loads in silence, the map answers, the tables sort, nothing that a name says runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support_browser import chromium, complaints, requests, screenshot, visit, window
from support_report import dense, experts, hostile, model, page

N = 4
TITLE = "a.imatrix \N{EN DASH} importance matrix"
LABELS = "return [...document.querySelectorAll('#heat td')].map(c => c.ariaLabel)"
COLOURS = "return [...document.querySelectorAll('#heat td')].map(c => c.style.backgroundColor)"
TEXTS = "return [...document.querySelectorAll(arguments[0])].filter(e => e.checkVisibility()).map(e => e.textContent)"
ATTACK = """
document.body.insertAdjacentHTML('beforeend',
  "<img src='http://example.invalid/a.png' onerror='document.title=1'><b onclick='document.title=1' id=trap>x</b>");
document.getElementById('trap').click();
const made = document.createElement('script');
made.textContent = 'document.title=1';
document.body.append(made);
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Any:
    """The report on a small dense model, open in the browser."""
    window(browser)
    visit(browser, page(tmp_path / "a.imatrix", dense(N), model(tmp_path / "m.gguf", N)))
    return browser


def texts(browser: Any, selector: str) -> list[str]:
    """The texts of the elements that are on the page to be seen."""
    return list(browser.execute_script(TEXTS, selector))


def click(browser: Any, selector: str) -> None:
    browser.find_element("css selector", selector).click()


def choose(browser: Any, title: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(browser.find_element("id", "figure")).select_by_visible_text(title)


@pytest.mark.parametrize("case", ["dense", "model", "experts", "hostile", "no layers"])
def test_it_loads_in_silence_and_asks_for_nothing(browser: Any, tmp_path: Path, case: str) -> None:
    entries = {"experts": experts(3, 8), "hostile": hostile(), "no layers": [("a.weight", [1, 2], [1])]}.get(
        case, dense(N)
    )
    beside = model(tmp_path / "m.gguf", N) if case == "model" else None
    out = page(tmp_path / "a.imatrix", entries, beside)
    visit(browser, out)
    assert complaints(browser) == []
    assert requests(browser) == [out.as_uri()]
    assert browser.title == TITLE


def test_the_statistic_can_be_switched(opened: Any) -> None:
    cells = "#heat tbody td"
    assert texts(opened, "#map-title") == ["Mean square per channel, by layer and kind of tensor"]
    before = texts(opened, cells)
    labels = opened.execute_script(LABELS)
    colours = opened.execute_script(COLOURS)
    choose(opened, "Entropy, % of maximum")
    assert texts(opened, "#map-title") == ["Entropy, % of maximum, by layer and kind of tensor"]
    assert len(before) == 2 * N and all(a != b for a, b in zip(before, texts(opened, cells), strict=True))
    assert labels != opened.execute_script(LABELS)
    assert colours != opened.execute_script(COLOURS)
    assert complaints(opened) == []


def test_every_statistic_can_be_shown_on_both_scales(opened: Any) -> None:
    from selenium.webdriver.support.ui import Select

    for option in Select(opened.find_element("id", "figure")).options:
        choose(opened, option.text)
        for scale in ("kind", "all"):
            click(opened, f"[name=scale][value={scale}]")
            assert "NaN" not in "".join(texts(opened, "#heat, #legend"))
            colours = opened.execute_script(COLOURS)
            assert all(colour.startswith("rgb") or colour == "" for colour in colours)
    assert complaints(opened) == []


def test_hover_tells_tensor_layer_and_value(opened: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    cell = opened.find_elements("css selector", "#heat tbody tr:nth-child(1) td")[2]
    assert not opened.find_element("id", "tip").is_displayed()
    ActionChains(opened).move_to_element(cell).perform()
    tip = opened.find_element("id", "tip")
    rows = opened.execute_script("return data.tables.tensors.rows")
    wanted = next(row for row in rows if row[0] == "blk.2.attn_q.weight")
    keys = opened.execute_script("return data.tables.tensors.columns.map(c => c.key)")
    shown = opened.execute_script("return words(arguments[0])", wanted[keys.index("mean")])
    assert tip.is_displayed() and tip.text.startswith(
        f"blk.2.attn_q.weight\nMean square per channel: {shown}\nLayer 2 · "
    )
    ActionChains(opened).move_to_element(opened.find_element("tag name", "h1")).perform()
    assert not tip.is_displayed()


def test_a_click_on_a_layer_shows_its_tensors(opened: Any) -> None:
    click(opened, "[data-layer='1']")
    assert texts(opened, "#panel-title") == ["Layer 1: 2 tensors"]
    assert texts(opened, "#t-panel tbody th") == ["blk.1.attn_q.weight", "blk.1.ffn_down.weight"]
    click(opened, "#panel-after")
    assert texts(opened, "#t-panel tbody th") == ["blk.2.attn_q.weight", "blk.2.ffn_down.weight"]
    opened.find_elements("css selector", "#heat tbody tr:nth-child(2) td")[3].click()
    assert texts(opened, "#panel-title") == [f"Layer {N - 1}: 2 tensors"]
    assert opened.find_element("id", "panel-after").get_attribute("disabled")
    click(opened, "#t-panel thead th:first-child button")
    click(opened, "#t-panel thead th:first-child button")
    assert texts(opened, "#t-panel tbody th") == ["blk.3.ffn_down.weight", "blk.3.attn_q.weight"]
    click(opened, "#panel-close")
    assert not opened.find_element("id", "panel").is_displayed()
    assert opened.switch_to.active_element.get_attribute("data-layer") == "3"


def test_keys_walk_over_the_map(opened: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    opened.execute_script("document.querySelector('#heat td').focus()")
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_DOWN):
        opened.switch_to.active_element.send_keys(key)
    assert texts(opened, "#readout")[0].startswith("Layer 2, blk.2.ffn_down.weight: Mean square per channel ")
    opened.switch_to.active_element.send_keys(Keys.ENTER)
    assert texts(opened, "#panel-title") == ["Layer 2: 2 tensors"]
    assert opened.execute_script("return document.querySelectorAll('#heat td[tabindex=\"0\"]').length") == 1


def column_of(browser: Any, table: str, key: str) -> int:
    return int(
        browser.execute_script(
            "return data.tables[arguments[0]].columns.findIndex(c => c.key === arguments[1])", table, key
        )
    )


def test_tables_sort_by_number_and_what_has_none_is_last(opened: Any) -> None:
    at = column_of(opened, "tensors", "cossim") + 1
    button = f"#t-tensors thead th:nth-child({at}) button"
    orders = []
    for wanted in ("descending", "ascending"):
        click(opened, button)
        assert (
            opened.find_element("css selector", f"#t-tensors thead th:nth-child({at})").get_attribute("aria-sort")
            == wanted
        )
        orders.append(texts(opened, f"#t-tensors tbody tr > :nth-child({at})"))
    numbers = [[float(text) for text in order[: 2 * (N - 1)]] for order in orders]
    assert numbers[0] == sorted(numbers[0], reverse=True) and numbers[1] == sorted(numbers[1])
    assert all(set(order[2 * (N - 1) :]) == {"\N{EN DASH}"} for order in orders)
    at = column_of(opened, "tensors", "mean") + 1
    click(opened, f"#t-tensors thead th:nth-child({at}) button")
    means = [float(text.replace(",", "")) for text in texts(opened, f"#t-tensors tbody tr > :nth-child({at})")]
    assert means == sorted(means, reverse=True) and sorted(map(str, means), reverse=True) != list(map(str, means))


def test_layers_in_names_sort_as_numbers(browser: Any, tmp_path: Path) -> None:
    visit(browser, page(tmp_path / "a.imatrix", [e for e in dense(12) if "attn_q" in e[0]][::-1]))
    click(browser, "#t-tensors thead th:first-child button")
    assert texts(browser, "#t-tensors tbody th") == [f"blk.{i}.attn_q.weight" for i in range(12)]


def test_find_and_all_columns(opened: Any) -> None:
    opened.find_element("css selector", "[data-filter=t-tensors]").send_keys("FFN_d")
    assert texts(opened, "#t-tensors tbody th") == [f"blk.{i}.ffn_down.weight" for i in range(N)]
    assert texts(opened, "[data-found=t-tensors]") == [f"{N} of {2 * N + 1}"]
    few = len(texts(opened, "#t-tensors thead th"))
    click(opened, "[data-all=t-tensors]")
    assert (
        few
        < len(texts(opened, "#t-tensors thead th"))
        == opened.execute_script("return data.tables.tensors.columns.length")
    )


def test_experts_are_drawn_and_told(browser: Any, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    visit(browser, page(tmp_path / "a.imatrix", experts(3, 10)))
    assert "24 of 30 experts of ffn_down_exps, ffn_up_exps got tokens" in texts(browser, "#expert-note")[0]
    canvas = browser.find_element("id", "expert-map")
    canvas.send_keys(*[Keys.ARROW_RIGHT] * 5)
    assert texts(browser, "#expert-readout") == ["Layer 0, expert 4: 0 tokens"]
    canvas.send_keys(Keys.ARROW_DOWN)
    assert texts(browser, "#expert-readout") == ["Layer 1, expert 4: 13 tokens"]
    count = (
        "const c = arguments[0], d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data, s = new Set();"
        "for (let i = 0; i < d.length; i += 4) s.add(d[i] << 16 | d[i + 1] << 8 | d[i + 2]); return [...s];"
    )
    assert 0xD55E00 in browser.execute_script(count, canvas) and complaints(browser) == []


def test_hostile_names_are_text(browser: Any, tmp_path: Path) -> None:
    visit(
        browser,
        page(tmp_path / "a.imatrix", hostile(), datasets=("</script><script>document.title=1</script>",)),
    )
    click(browser, "[data-layer='1']")
    for option in browser.execute_script(
        "return [...document.querySelectorAll('#figure option')].map(o => o.textContent)"
    ):
        choose(browser, option)
    browser.execute_script("document.querySelector('#heat td').focus()")
    assert browser.title == TITLE
    assert browser.execute_script("return document.querySelectorAll('img, svg').length") == 0
    assert any("<img src=x onerror" in text for text in texts(browser, "#t-panel tbody th"))
    assert complaints(browser) == [] and len(requests(browser)) == 1


def test_the_policy_stops_what_would_get_through(opened: Any) -> None:
    """Were a name to become markup, the browser still would not run or load it."""
    opened.execute_script(ATTACK)
    assert opened.title == TITLE
    assert any("Content Security Policy" in line for line in complaints(opened))
    assert len(requests(opened)) == 1


def test_print_shows_the_tables_whole_and_no_controls(opened: Any) -> None:
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        hidden = ("#map .controls", "nav", "[data-filter]", "[data-all]")
        assert all(texts(opened, selector) == [] for selector in hidden) and len(texts(opened, "#heat td")) == 2 * N
        for box in opened.find_elements("css selector", ".scroll.tall"):
            assert box.value_of_css_property("overflow") == "visible"
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_the_ramp_can_be_read_in_grey_and_the_ink_upon_it(opened: Any) -> None:
    """Luminance rises all along, so eyes without colours see the order; every number has the contrast of 4.5 : 1."""
    colours = opened.execute_script(
        "return ['sequential', 'light', 'dark'].map(name => [...Array(101).keys()].map(i => {"
        "  stops.probe = stops[name]; const rgb = colourAt('probe', i / 100); return [rgb, inkOn(rgb)]; }))"
    )

    def luminance(rgb: list[int]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in rgb)]
        return sum(c * weight for c, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))

    steps = [luminance(rgb) for rgb, _ in colours[0]]
    assert steps == sorted(steps) and steps[-1] > 0.7 > 0.05 > steps[0]
    for rgb, ink in (pair for ramp in colours for pair in ramp):
        light, dark = sorted((luminance(rgb), 0.0 if ink == "#000" else 1.0), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (rgb, ink)


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("case", ["12 layers", "80 layers", "experts"])
def test_it_fits_and_is_no_blank_picture(browser: Any, tmp_path: Path, case: str, width: int, dark: bool) -> None:
    entries = {"12 layers": dense(12), "80 layers": dense(80), "experts": experts(8, 64)}[case]
    out = page(tmp_path / "a.imatrix", entries)
    window(browser, width=width, dark=dark)
    visit(browser, out)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(21, 22, 24)" if dark else "rgb(251, 250, 248)")
    picture = tmp_path / "page.png"
    screenshot(browser, picture)
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 20_000
    assert complaints(browser) == []
