"""A headless Chromium for tests, which sees nothing but this machine."""

import json
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
DRIVER = shutil.which("chromedriver")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    # Sound plays without a click, into nothing; a microphone that beeps.
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--hide-scrollbars",
    # A mouse, which a browser without a window has not.
    "--blink-settings=availableHoverTypes=2,primaryHoverType=2,"
    "availablePointerTypes=4,primaryPointerType=4",
)
PATIENCE = 120  # seconds


class Browser:
    """A window of the browser, with what the tests do in it."""

    def __init__(self, driver, downloads):
        self.driver = driver
        self.downloads = downloads

    def run(self, script, *values):
        """Run a script's body; the value that it returns."""
        return self.driver.execute_script(script, *values)

    def wait(self, script, *values):
        """Wait until a script returns something true, and return that."""
        end = time.monotonic() + PATIENCE
        while True:
            found = self.run(script, *values)
            if found:
                return found
            assert time.monotonic() < end, f"in vain: {script}"
            time.sleep(0.05)

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def click(self, selector):
        self.run(
            "arguments[0].scrollIntoView({block: 'center'})",
            self.find(selector),
        )
        self.find(selector).click()

    def keys(self, *keys):
        """Type into what has the focus."""
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def chord(self, *keys):
        """Press keys together, such as control and z."""
        from selenium.webdriver import ActionChains

        *held, last = keys
        actions = ActionChains(self.driver)
        for key in held:
            actions.key_down(key)
        actions.send_keys(last)
        for key in reversed(held):
            actions.key_up(key)
        actions.perform()

    def size(self, width, height):
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {
                "width": width,
                "height": height,
                "deviceScaleFactor": 1,
                "mobile": False,
            },
        )

    def prefer(self, **features):
        """Set preferences of the user, such as a dark page."""
        self.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {
                "features": [
                    {"name": name.replace("_", "-"), "value": value}
                    for name, value in features.items()
                ]
            },
        )

    def downloaded(self, name):
        """Content of a file, once it has been saved."""
        end = time.monotonic() + PATIENCE
        path = Path(self.downloads) / name
        while not path.exists():
            assert time.monotonic() < end, f"{name} was not saved"
            time.sleep(0.05)
        return path.read_bytes()

    def complaints(self):
        """Errors and warnings of the console since the last call."""
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] in ("SEVERE", "WARNING")
        ]


@contextmanager
def browsing(folder, *options, language="en"):
    """A browser with a profile of its own below a folder."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    downloads = Path(folder) / "downloads"
    downloads.mkdir()
    chosen = webdriver.ChromeOptions()
    chosen.binary_location = BROWSER
    for option in (
        *OPTIONS,
        f"--user-data-dir={Path(folder) / 'profile'}",
        f"--lang={language}",
        *options,
    ):
        chosen.add_argument(option)
    chosen.add_experimental_option(
        "prefs",
        {
            "download.default_directory": str(downloads),
            "intl.accept_languages": language,
        },
    )
    chosen.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=chosen, service=Service(DRIVER))
    try:
        driver.set_script_timeout(PATIENCE)
        yield Browser(driver, downloads)
    finally:
        driver.quit()


def audit(browser):
    """Serious and critical findings of axe-core on the page as it is."""
    import axe_core_python

    source = Path(axe_core_python.__file__).parent / "axe.min.js"
    # By the debugger's protocol: the page's own policy allows no such script.
    browser.driver.execute_cdp_cmd(
        "Runtime.evaluate", {"expression": source.read_text()}
    )
    found = browser.driver.execute_async_script(
        "const done = arguments[0];"
        "axe.run(document, {resultTypes: ['violations']})"
        ".then(result => done(JSON.stringify(result.violations)));"
    )
    return [
        (rule["id"], node["html"][:200], node["failureSummary"])
        for rule in json.loads(found)
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]
