"""A page for a browser: pictures in, answers drawn over them; the server stands in for the device, too."""

from splitreg.serving.page.routes import add_page

__all__ = ["add_page"]
