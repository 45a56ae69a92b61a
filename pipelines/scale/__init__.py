"""One build by many: shards, worker processes, a Dask cluster."""
