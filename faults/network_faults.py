"""Scenarios 8 to 11: the connection to PostgreSQL is reset, loses answers, or falls silent."""

import time

from faults import network_namespace
from faults.environment import FEW_WRITERS, Environment
from faults.pg_proxy import Harm
from faults.scenarios import scenario

SILENCE_SECONDS = 10.0  # more than the slowest response may take


@scenario(8, "connections are reset during a query")
def reset_connections(env: Environment) -> None:
    with env.load():
        env.sleep_share(0.2)
        env.proxy.harm_some_queries(Harm.RESET, 0.03)
        env.sleep_share(0.5)
        env.proxy.harm_some_queries(None)
        env.mark_recovered()
        env.sleep_share(0.3)
    env.fault_count = env.proxy.harmed[Harm.RESET]


@scenario(9, "answers to writes are lost")
def lose_answers(env: Environment) -> None:
    with env.load():
        env.sleep_share(0.2)
        env.proxy.harm_some_queries(Harm.LOSE_ANSWER, 0.05)
        env.sleep_share(0.6)
        env.proxy.harm_some_queries(None)
        env.mark_recovered()
        env.sleep_share(0.2)
    env.fault_count = env.proxy.harmed[Harm.LOSE_ANSWER]


@scenario(10, "PostgreSQL falls silent; packets are acknowledged")
def fall_silent(env: Environment) -> None:
    silence_database(env, FEW_WRITERS)


def silence_database(env: Environment, writers: int) -> None:
    """Hold all packets between the service and PostgreSQL for a while."""
    with env.load(writers=writers):
        env.sleep_share(0.2)
        env.proxy.is_silent = True
        time.sleep(SILENCE_SECONDS)
        env.proxy.is_silent = False
        env.mark_recovered()
        env.sleep_share(0.4)
    env.fault_count = env.proxy.held_packets


@scenario(
    11,
    "PostgreSQL falls silent; packets are not acknowledged",
    skip_reason=network_namespace.skip_reason,
    prepare_network=network_namespace.separate_database,
)
def lose_packets(env: Environment) -> None:
    # Not through the proxy, which would acknowledge packets.
    env.restart_service(env.database_url(env.cluster.port, env.cluster.address))
    with env.load(writers=FEW_WRITERS):
        env.sleep_share(0.2)
        before = network_namespace.count_retransmissions()
        network_namespace.start_packet_loss(env.cluster)
        time.sleep(SILENCE_SECONDS)
        env.fault_count = network_namespace.count_retransmissions() - before
        network_namespace.stop_packet_loss(env.cluster)
        env.mark_recovered()
        env.sleep_share(0.4)
