"""Take the pictures that README.md shows, of the newest training run in the local store."""

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))

import click

from llm_engineering.config.run import RunConfig
from llm_engineering.errors import StoreError
from tools.command import Command
from tools.environment import set_environment

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT = 1280, 900


@click.command(cls=Command)
@click.option("--out", default=str(ROOT / "docs" / "images"), type=click.Path(path_type=Path), help="The folder.")
def main(out: Path) -> None:
    """Take pictures of the newest training run: its report, and its page in the dashboard.

    Needs Chromium, and playwright of the development install.
    """
    import shutil

    from playwright.sync_api import sync_playwright

    set_environment(RunConfig())
    browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser_path is None:
        raise StoreError(f"There is no browser ({', '.join(BROWSERS)}). Install Chromium.")
    run_id, report = _newest_run()
    out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        _picture_report(browser, report, out / "report.png")
        _picture_dashboard(browser, run_id, out / "dashboard.png")
        browser.close()


def _newest_run() -> tuple[str, Path]:
    """Return the id and the report of the newest training.

    Raises:
        StoreError: There is none.
    """
    from pipelines.store import open_store

    open_store()
    from zenml.client import Client

    from steps.runtime.facts import run_facts

    found = Client().list_pipeline_runs(pipeline="training", status="completed", sort_by="desc:created", size=1).items
    if not found:
        raise StoreError("No training has been completed. Run `make train` first.")
    facts = run_facts(Client().get_pipeline_run(found[0].id))
    return facts.id, Path(facts.artifacts["report"])


def _page(browser: "Browser") -> "Page":
    return browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})


def _picture_report(browser: "Browser", report: Path, out: Path) -> None:
    page = _page(browser)
    page.goto(report.as_uri())
    page.screenshot(path=out)


def _picture_dashboard(browser: "Browser", run_id: str, out: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "dashboard.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            address = re.search(r"http://\S+", server.stdout.readline())
            if address is None:
                raise StoreError("The dashboard did not start. Run `python tools/dashboard.py` to see why.")
            page = _page(browser)
            page.goto(f"{address[0]}/{run_id}")
            page.wait_for_selector(".react-flow__node")
            page.get_by_label("Dismiss local-server notice").click()
            page.locator("div.absolute.top-4.left-4 > button").first.click()  # fits the whole DAG into the view
            page.wait_for_selector("text=promotion_decision")
            page.wait_for_timeout(1000)
            page.screenshot(path=out)
        finally:
            server.kill()


if __name__ == "__main__":
    main()
