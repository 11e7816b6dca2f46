"""What tests do with the viewer of a page, and wait for."""

from __future__ import annotations

from headless_browser import Browser

LOADED = (
    "document.getElementById('viewer').dataset.loaded === '{}' && document.getElementById('viewer').dataset.painted > 0"
)
SNAPSHOT = "Array.from(document.querySelectorAll('canvas'), (c) => c.toDataURL()).join()"


def set_value(name: str, value: str) -> str:
    """A script that sets a control as a user does."""
    return (
        f"(() => {{ const e = document.querySelector({name!r}); e.value = {value!r};"
        " for (const kind of ['input', 'change']) e.dispatchEvent(new Event(kind, {bubbles: true})); })()"
    )


def painted_after(browser: Browser, script: str) -> None:
    """Run a script and wait until the planes were painted again."""
    before = browser.run("document.getElementById('viewer').dataset.painted")
    browser.run(script)
    browser.wait(f"document.getElementById('viewer').dataset.painted > {before}")
