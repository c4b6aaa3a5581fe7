"""A page for browsers: choose an image, see its predictions; the server encodes the image."""

from splitreg.serving.page.routes import add_page

__all__ = ["add_page"]
