"""Two demo services as minimal root file systems from Debian packages: a Python web application and its Redis."""

from nebh.testing.demo_app.services import build_db, build_web, write_demo

__all__ = ["build_db", "build_web", "write_demo"]
