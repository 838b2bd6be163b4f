"""The door of the playground: settings → page → launch."""

import logging
import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from playground.settings import Settings
from playground.ui.build import serve


def main() -> None:
    """Serve the page until it is stopped."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    serve(Settings.from_environment())


if __name__ == "__main__":
    main()
