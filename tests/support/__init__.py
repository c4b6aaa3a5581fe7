"""Helpers of the tests: small stand-in plugins, servers, browsers; `from support.toys import ...`."""
