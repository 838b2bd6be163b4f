"""Try every way to adapt a GenAI model, and see one live, measured comparison."""

__version__ = "0.1.0"
