"""Run tasks in several processes: the shards of a conversion, of predictions.

process_pool.py  processes of this machine
ray_cluster.py   tasks of a Ray cluster
"""
