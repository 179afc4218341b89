"""The stages from raw catalogue to registered Parquet: plain Python, one folder per stage, one entry `run(...)`.

Importing a stage's package imports none of its modules: `run` is found in `stage.py` when it is first used (a module's
`__getattr__`, PEP 562). So a module that only reads tables (`similarity.lookup`, `registry.versions`) loads its own
libraries, not those of the stage beside it. Modules import their libraries at the top, except for torch, MLflow and
their like in a module that a light command needs: there the function that uses them imports them.

On Windows, importing any of it is a `UserError`.
"""

from pipeline import system

system.check()
system.let_waiting_threads_sleep()
