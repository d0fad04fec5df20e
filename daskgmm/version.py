"""Version of the package, in a module without imports: no module has to import the package for it."""

__version__ = "0.1.0"
