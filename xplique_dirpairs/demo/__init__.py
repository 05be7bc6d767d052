"""The demo on data that comes with the installed packages."""
