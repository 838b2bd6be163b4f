"""The recipe that makes the small text-to-image model in assets/starter-image.

``python -m playground.starter train --preset cpu --out DIR`` builds the data from public icon sets,
trains and evaluates; ``evaluate DIR`` and ``sheet DIR`` can be run again on their own.
"""
