"""A page for browsers: choose an image, see the answers drawn over it; the server also encodes the image."""

from splitreg.serving.page.routes import add_page

__all__ = ["add_page"]
