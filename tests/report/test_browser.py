"""The page in headless Chromium (Debian's packages chromium and chromium-driver)."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from acdc_jax.report.page import write_page

webdriver = pytest.importorskip("selenium.webdriver")

pytestmark = [
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(
        not (shutil.which("chromium") and shutil.which("chromedriver")),
        reason="needs chromium and chromedriver: apt-get install chromium chromium-driver",
    ),
]
_FIGURES = (
    *("pool", "measured0", "novelty", "vendi", "heat"),
    *("lineage", "recipe", "map", "seconds", "wall"),
)
_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    for option in _OPTIONS:
        options.add_argument(option)
    options.binary_location = shutil.which("chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, write_run: Callable[..., Path]) -> Path:
    return write_page([write_run(tmp_path_factory.mktemp("page") / "run")])


def _open(browser: Any, page: Path, width: int = 1280, scheme: str = "light") -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())
    _wait(browser, "return document.querySelectorAll('svg').length >= 2")


def _wait(browser: Any, condition: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 10).until(lambda driver: driver.execute_script(condition))


def _one(browser: Any, css: str) -> Any:
    return browser.find_element("css selector", css)


def _hover(browser: Any, css: str) -> str:
    """Points at an element and returns the tooltip's text."""
    element = _one(browser, css)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    _wait(browser, "return new Promise((ok) => requestAnimationFrame(() => ok(true)))")
    webdriver.ActionChains(browser).move_to_element(element).perform()
    return str(_one(browser, "#tooltip").text)


def _choose(browser: Any, css: str, value: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(_one(browser, css)).select_by_value(value)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_loads_without_errors_and_fits(browser: Any, page: Path, width: int, scheme: str) -> None:
    _open(browser, page, width, scheme)
    for name in _FIGURES:
        assert _one(browser, f"[data-figure={name}]").size["height"] > 40, name
    assert browser.execute_script("return document.documentElement.scrollWidth") == width
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    assert browser.get_log("browser") == []


def test_texts_of_models_and_tasks_stay_texts(browser: Any, page: Path) -> None:
    _open(browser, page)
    for row in browser.find_elements("css selector", "#browser summary")[:3]:
        row.click()
    shown = _one(browser, "#browser").text
    assert "Answer </script><script>window.hacked = 1</script><img src=x" in shown
    assert "# </script>" in shown  # a task's program
    assert browser.execute_script("return window.hacked") is None
    assert not browser.find_elements("tag name", "img")
    assert browser.get_log("browser") == []


def test_pictures_tell_what_they_show(browser: Any, page: Path) -> None:
    _open(browser, page)
    pool = _hover(browser, "[data-figure=pool] svg")
    assert pool.splitlines()[0] == "generation 1"
    assert "best three together: 50 %" in pool
    assert "t000" in _hover(browser, "#skills canvas")
    lineage = _hover(browser, "#lineage [data-id=g001-m00]")
    assert "in the task force of 3, generation 1" in lineage
    assert "0.38 × g000-m01" not in lineage  # (0.5 - 0.25) / 2
    assert "0.13 × g000-m01" in lineage
    assert "pass rate" in _hover(browser, "#map [data-id=t00023]")
    _one(browser, "#lineage [data-id=g000-m00]").click()
    assert "seed model" in _one(browser, "[data-figure=recipe]").text


def test_controls_change_the_pictures(browser: Any, page: Path) -> None:
    _open(browser, page)
    drawn = "return document.querySelector('{}').innerHTML"
    before = browser.execute_script(drawn.format("[data-figure=map]"))
    _choose(browser, "[data-control=map-colour]", "capability")
    assert "counting" in _one(browser, "[data-figure=map]").text
    assert browser.execute_script(drawn.format("[data-figure=map]")) != before
    before = browser.execute_script("return document.querySelector('canvas').toDataURL()")
    _choose(browser, "[data-control=heat-order]", "age")
    after = browser.execute_script("return document.querySelector('canvas').toDataURL()")
    assert after != before
    _choose(browser, "[data-control=tree]", "archive")
    assert len(browser.find_elements("css selector", "#lineage circle")) == 5


def test_filters(browser: Any, page: Path) -> None:
    _open(browser, page)

    def found() -> str:
        return str(_one(browser, "#found").text)

    assert found() == "24 of 24 tasks"
    _choose(browser, "#filters [name=kind]", "harder")
    assert found() == "6 of 24 tasks"
    _choose(browser, "#filters [name=capability]", "logic")
    assert found() == "2 of 24 tasks"
    _one(browser, "#filters [name=active]").click()
    assert found() == "2 of 24 tasks"
    _one(browser, "#map [data-id=t00005]").click()  # opens that task, whatever was filtered
    assert found() == "1 of 24 tasks"
    assert "say 5" in _one(browser, "#browser").text
    _choose(browser, "#filters [name=difficulty]", "2")
    assert found() == "0 of 24 tasks"


def test_levels_and_lineage(browser: Any, page: Path) -> None:
    """Tasks with levels can be chosen by them, and lead to their parents and children."""
    _open(browser, page)
    _choose(browser, "#filters [name=families]", "gcd")
    assert "3 of 24" in _one(browser, "#found").text
    _choose(browser, "#filters [name=level]", "2")
    row = _one(browser, "#browser summary")
    assert "level 2" in row.text
    row.click()
    shown = _one(browser, "#browser .task").text
    assert "levels above the lowest: gcd (value 2)" in shown
    assert "family 10 · value 0 → 2" in shown
    _one(browser, "#browser .line button").click()  # its parent
    assert "level 0" in _one(browser, "#browser summary").text
    children = _one(browser, "#browser .line").text.splitlines()
    assert len(children) == 13
    assert children[0].startswith("t00000 seed")
    assert browser.get_log("browser") == []


def test_tasks_without_levels_are_not_chosen_by_them(
    browser: Any, tmp_path: Path, write_run: Callable[..., Path]
) -> None:
    run = write_run(tmp_path / "run")
    for file in run.glob("tasks/*/task.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"metadata": {}}))
    _open(browser, write_page([run]))
    for name, shown in (("families", False), ("level", False), ("kind", True)):
        assert _one(browser, f"#filters [name={name}]").is_displayed() == shown


def test_several_runs(browser: Any, tmp_path: Path, write_run: Callable[..., Path]) -> None:
    runs = [
        write_run(tmp_path / f"{selection}{seed}", seed=seed, selection=selection)
        for selection in ("novelty", "fitness")
        for seed in (0, 1)
    ]
    for width in (1280, 390):
        _open(browser, write_page(runs, tmp_path / "page.html"), width)
        assert browser.execute_script("return document.documentElement.scrollWidth") == width
        assert "selection=fitness: 25 %" in _hover(browser, "[data-figure=measured0] svg")
        assert browser.get_log("browser") == []
