"""The recipe that makes the small text-to-image model in assets/starter-image.

``python -m playground.starter train --preset cpu --out DIR`` builds the data from public icon sets (npm and
the Python package resvg-py are needed for that), trains and evaluates; ``--preset gpu`` makes the large one
on a GPU. A stopped training goes on when it is started again; ``--steps unet=20000`` makes it go on longer.
``evaluate DIR`` and ``sheet DIR`` can be run again on their own.

On a busy machine with two cores, two processes with a thread each are faster than one with two:
``torchrun --nproc-per-node 2 -m playground.starter train --preset cpu --out DIR``.
"""
