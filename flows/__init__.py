"""When a build runs, and again: thin Prefect flows over `pipelines`. Start reading in `steps.py`.

Prefect owns when and again, `pipelines` own what, and the journal owns where it stopped. Only this folder imports Prefect.
"""
