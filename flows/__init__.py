"""When a build runs and where: thin Prefect flows over `pipelines`."""
