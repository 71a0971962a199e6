"""ZenML's dashboard over a real run, looked at in a browser."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest
from command_line import REPOSITORY, SMALL, CommandLine

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTH, HEIGHT = 1500, 950
MOST_LINES = 80
"""Of the graph of a training whose pairs are sampled."""
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")]


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    return CommandLine(REPOSITORY, tmp_path_factory.mktemp("dashboard") / "zen")


@pytest.fixture(scope="module")
def run(line: CommandLine) -> dict[str, Any]:
    config = line.store.parent / "small.yaml"
    config.write_text(SMALL)
    return line.summary(line.store.parent / "summary.json", "--run-training", "--config", str(config))


@pytest.fixture(scope="module")
def address(line: CommandLine) -> Iterator[str]:
    command = [sys.executable, str(REPOSITORY / "tools" / "dashboard.py")]
    with subprocess.Popen(command, env=line.variables, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found
        yield found[0]
        process.kill()


@pytest.fixture(scope="module")
def page() -> Iterator["playwright.Page"]:
    with playwright.sync_playwright() as driver:
        names = "--host-resolver-rules=MAP *.example 127.0.0.1"
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", names])
        yield browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        browser.close()


@pytest.fixture(scope="module")
def foreign_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Where somebody else serves a page."""
    folder = tmp_path_factory.mktemp("foreign")
    (folder / "index.html").write_text("<title>foreign</title>")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder))) as server:
        Thread(target=server.serve_forever).start()
        yield server.server_port
        server.shutdown()


def shot(page: "playwright.Page", name: str, folder: Path) -> None:
    page.screenshot(path=folder / f"{name}.png")


def show_whole_dag(page: "playwright.Page") -> None:
    page.wait_for_selector(".react-flow__node")
    page.locator("div.absolute.top-4.left-4 > button").first.click()
    page.wait_for_selector("text=promotion_decision")


def preview(page: "playwright.Page", artifact: str, kind: str = "HTMLString") -> "playwright.Frame":
    """Open an artifact of the DAG that is shown, load its preview and return the frame it is in."""
    page.locator(".react-flow__node").filter(has_text=re.compile(rf"^{artifact}\s*{kind}")).click()
    page.get_by_role("tab", name="Visualization").last.click()
    page.get_by_role("button", name="Load Preview").click()
    page.wait_for_selector("iframe")
    frame = page.locator("iframe").last.element_handle().content_frame()
    assert frame is not None
    frame.wait_for_selector("h1")
    return frame


def test_a_run_reads_well_in_the_dashboard(
    run: dict[str, Any], address: str, page: "playwright.Page", line: CommandLine
) -> None:
    facts = run["run"]
    shots = line.store.parent
    page.goto(address)
    page.wait_for_selector(f"text={str(facts['name'])[:20]}")  # the runs list, and no survey before it
    shot(page, "runs", shots)

    page.goto(f"{address}/{facts['id']}")
    show_whole_dag(page)
    nodes = {node.split("\n")[0] for node in page.locator(".react-flow__node").all_inner_texts()}
    assert set(facts["step_seconds"]) <= nodes
    assert {"sft_model", "dpo_model", "evaluation_report", "promotion_decision", "data_preview"} <= nodes
    shot(page, "dag", shots)
    assert page.locator(".react-flow__edge").count() <= MOST_LINES

    page.get_by_label("Timeline view").click()
    for name in facts["step_seconds"]:
        place = page.get_by_text(name, exact=True).first.bounding_box()
        assert place
        assert place["height"] >= 12, f"the name of {name} is too small to be read"
        assert place["y"] + place["height"] <= HEIGHT, f"{name} is below the fold"
    shot(page, "timeline", shots)
    page.get_by_label("DAG view").click()
    show_whole_dag(page)

    page.get_by_role("tab", name="Metadata").first.click()
    for section, words in (("promotion", "reason"), ("metrics of dpo", "preferred_rate"), ("proofs", "step0_loss")):
        page.get_by_text(section, exact=True).click()
        page.wait_for_selector(f"text={words}")
    shot(page, "metadata", shots)

    report = preview(page, "report")
    assert "Proofs" in report.inner_text("body")
    shot(page, "report", shots)
    page.keyboard.press("Escape")
    data = preview(page, "data_preview")
    assert "embedded" in data.inner_text("body")
    shot(page, "data_preview", shots)
    page.keyboard.press("Escape")
    curves = preview(page, "dpo_report", "TrainingReport")
    assert "Loss" in curves.inner_text("body")
    shot(page, "curves", shots)


ASK = """async ([address, settings]) => {
  try {
    const answer = await fetch(address, {credentials: "include", ...settings});
    return [answer.type, answer.status, await answer.text()];
  } catch (error) {
    return ["failed", 0, error.name];
  }
}"""
FORM = """address => {
  const form = Object.assign(document.createElement("form"), {method: "POST", action: address, enctype: "text/plain"});
  document.body.append(form);
  form.submit();
}"""


def write(name: str, kind: str, **settings: str) -> dict[str, object]:
    """Return how a page asks for a new secret."""
    return {
        "method": "POST",
        "headers": {"Content-Type": kind},
        "body": f'{{"name": "{name}", "values": {{"key": "value"}}}}',
        **settings,
    }


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "evil.example"])
def test_a_page_of_another_origin_neither_reads_nor_writes(
    host: str, address: str, page: "playwright.Page", foreign_port: int
) -> None:
    own = urlsplit(address)
    secrets = f"http://{own.netloc}/api/v1/secrets"
    page.goto(f"http://{host}:{foreign_port}/")
    assert page.title() == "foreign"
    failed = ["failed", 0, "TypeError"]
    assert page.evaluate(ASK, [secrets, {}]) == failed
    assert page.evaluate(ASK, [secrets, write("by_json", "application/json")]) == failed
    assert page.evaluate(ASK, [secrets, write("by_text", "text/plain")]) == failed
    unread = page.evaluate(ASK, [secrets, write("unread", "text/plain", mode="no-cors")])
    assert unread == ["opaque", 0, ""]
    with page.expect_navigation() as form:
        page.evaluate(FORM, secrets)
    assert form.value is not None
    assert form.value.status == 403

    page.goto(address)
    assert page.evaluate(ASK, ["/api/v1/secrets", write(f"own_{host[:3]}", "application/json")])[1] == 200
    _, status, listed = page.evaluate(ASK, ["/api/v1/secrets", {}])
    assert status == 200
    assert f'"own_{host[:3]}"' in listed
    assert not re.search("by_json|by_text|unread", listed)


def test_a_name_that_was_pointed_at_this_machine_shows_nothing(address: str, page: "playwright.Page") -> None:
    own = urlsplit(address)
    answer = page.goto(f"http://evil.example:{own.port}/api/v1/secrets")
    assert answer is not None
    assert (answer.status, page.inner_text("body")) == (400, "Invalid host header")
    asked = page.evaluate(ASK, ["/api/v1/secrets", write("rebound", "application/json")])
    assert asked == ["basic", 400, "Invalid host header"]
