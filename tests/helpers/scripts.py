"""Beginning of the scripts that tests run in a process and a Ray of their own."""

COMMON = """
import json, os, sys, time
import ray
from cluster.config import strict_yaml
from cluster.config.schema import parse
from cluster.interrupts import StopFlag
from cluster.setups.build import build
from cluster.training.learner import Learner
from cluster.training.loop import meta_train
from cluster.workers.pool import InlinePool
from cluster.workers.ray_pool import RayPool
from cluster.workers.session import ray_session

class Silence:
    def after_step(self, learner, metrics): pass
    def finish(self, learner): pass

def train(pool, steps=None):
    setup = build(config)
    learner = Learner(config.outer, setup.layout, setup.initial_params())
    outer = config.outer.model_copy(update={"steps": steps or config.outer.steps})
    meta_train(config.model_copy(update={"outer": outer}), learner, pool, Silence(), StopFlag())
    return learner.fingerprint

def wait_for_all(pool):
    while len(pool.pids) < pool.workers:
        train(pool, 1)

def configured(**cluster):
    return config.model_copy(update={"cluster": config.cluster.model_copy(update=cluster)})

config = parse(strict_yaml.read(open(sys.argv[1]).read()))
"""
