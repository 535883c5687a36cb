"""Lists the limits of the protocol and the parameters of the PSI."""

from __future__ import annotations

import psi.hashing
from docs.generator.markdown import table
from heterofed.messaging.deadlines import LEAST_RATE
from heterofed.messaging.notices import NOTICE_SECONDS
from heterofed.messaging.party import ABORT_LINGER
from heterofed.protocol import limits, messages
from heterofed.protocol.plan import MAX_PARTIES, Plan
from heterofed.rendezvous import backend
from heterofed.transport import flow_control, zeromq
from heterofed.transport.rate_limit import FIRST_MESSAGE_SECONDS, MAX_CONNECTIONS_PER_MINUTE
from heterofed.transport.reliable import listener as readmit
from heterofed.transport.zeromq import limiter, listener
from psi.rsa import keys


def protocol_limits() -> str:
    """The constants that both ends must know."""
    beat = zeromq.Heartbeat()
    plan = Plan(host="host", collaborators=("collaborator",))
    rows = {
        "protocol version": messages.PROTOCOL_VERSION,
        "largest frame (bytes)": limits.MAX_FRAME_BYTES,
        "largest header (bytes)": limits.MAX_HEADER_BYTES,
        "largest payload of `PsiKey` (bytes)": limits.MAX_KEY_BYTES,
        "largest payload of the other PSI messages (bytes)": limits.MAX_FRAME_BYTES,
        "bytes of one tag or match proof": limits.TAG_BYTES,
        "chunks of blinded values without an answer": limits.PSI_WINDOW,
        "Collaborators of one task, at most": MAX_PARTIES,
        "frames that a sender may be ahead of its reader": flow_control.WINDOW,
        "seconds between heartbeats": int(beat.interval),
        "seconds without any answer until a link is dead": int(beat.timeout),
        "seconds that a handshake may take at the Host": int(listener.HANDSHAKE_SECONDS),
        "seconds that a connection may take to say its Hello": int(FIRST_MESSAGE_SECONDS),
        "TCP connections that have said nothing yet, at most": limiter.MAX_SILENT,
        "bytes that such a one may bring (on Linux)": backend.FIRST_BYTES,
        "bytes that libzmq may hold of another one (on Linux)": limiter.MAX_BEHIND,
        "connections of one party at a time": listener.PARTY_SHARE,
        "links of one party at a time": readmit.PARTY_LINKS,
        "bytes of a peer's mail that was not taken, before the plan": limits.most_waiting(None),
        "the same under the default plan": limits.most_waiting(plan),
        "connections a minute that are looked at, of one party": MAX_CONNECTIONS_PER_MINUTE,
        "bytes a second that a peer must take of what waits for it": LEAST_RATE,
        "seconds of waiting between two `Waiting`": int(NOTICE_SECONDS),
        "seconds given to an Abort to leave": int(ABORT_LINGER),
    }
    return table(["what", "value"], ([what, f"{value:,}"] for what, value in rows.items()))


def phase_limits() -> str:
    """What a peer may make a party hold, phase by phase, under the default plan."""
    plan = Plan(host="host", collaborators=("collaborator",))
    rows = {
        "join": limits.joining(),
        "psi": limits.intersecting(),
        "split, between rounds, finish": limits.agreeing(),
        "train, test": limits.exchanging(plan),
        "after the end": limits.ended(plan),
    }
    return table(
        ["phase", "header", "payload"],
        ([phase, f"{its.header:,}", f"{its.payload:,}"] for phase, its in rows.items()),
    )


def psi_parameters() -> str:
    """The numbers of the RSA protocol."""
    rows = {
        "public exponent `e`": keys.E,
        "bits of the modulus, at least": keys.MIN_BITS,
        "bits of the modulus, at most": keys.MAX_BITS,
        "bits of the modulus, by default": Plan(host="a", collaborators=("b",)).psi_bits,
        "challenges in the proof of the key": keys.CHALLENGES,
        "bytes of a tag, and of a match proof": psi.hashing.TAG_BYTES,
        "ids of one party, at most": Plan(host="a", collaborators=("b",)).max_peer_ids,
    }
    return table(["parameter", "value"], ([what, f"{value:,}"] for what, value in rows.items()))
