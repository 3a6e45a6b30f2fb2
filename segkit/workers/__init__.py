"""Run tasks in several processes: the shards of a conversion, of predictions.

devices.py       the devices that share the work of a command
process_pool.py  processes of this machine
ray_cluster.py   tasks and actors of a Ray cluster
"""
