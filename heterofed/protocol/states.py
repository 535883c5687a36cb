"""The table of the protocol: which role may send which message in which state.

Both ends of a session have the same state. To change a phase, change this table first: the diagram
in the docs, the checks in `Session` and the exhaustive tests are derived from it.
"""

from __future__ import annotations

from enum import StrEnum

from heterofed.protocol.messages import (
    Abort,
    Average,
    BatchDone,
    BeginScores,
    BeginTest,
    BeginTrain,
    BeginUpdate,
    Bye,
    Checkpoint,
    CheckpointHeld,
    CountBegin,
    CountBlinded,
    CountOwn,
    CountRaised,
    CountReady,
    CountResult,
    DescribeModel,
    EndOfFeatures,
    Features,
    Findings,
    Finish,
    Gradients,
    GradientsSeen,
    Hello,
    InitialWeights,
    Message,
    ModelLayout,
    PredictAccepted,
    PredictPlan,
    ProbeBegin,
    ProbeFacts,
    ProbePing,
    ProbePong,
    ProbeResult,
    PsiBegin,
    PsiBlinded,
    PsiKey,
    PsiMatched,
    PsiRenew,
    PsiSigned,
    PsiTagged,
    PsiTags,
    PsiUnblinded,
    RoundEnd,
    Scores,
    SeenByOthers,
    ServeAccepted,
    ServeAnswer,
    ServePlan,
    ServeRequest,
    SiteRows,
    SiteShare,
    SiteSum,
    SplitAccepted,
    SplitParts,
    SplitPlan,
    StoredBegin,
    StoredBlinded,
    StoredClaims,
    StoredEvaluated,
    StoredFilter,
    StoredOffer,
    StoredReplies,
    Terms,
    Update,
    Waiting,
    WeightsHeld,
    Welcome,
    WelcomeBack,
)


class Role(StrEnum):
    """The two ends of a session."""

    HOST = "host"
    COLLABORATOR = "collaborator"

    @property
    def other(self) -> Role:
        """The role at the other end."""
        return Role.COLLABORATOR if self is Role.HOST else Role.HOST


class State(StrEnum):
    """The state of a session."""

    CONNECTING = "connecting"
    GREETED = "greeted"
    PROBE_BEGUN = "probe_begun"
    PROBE = "probe"
    PROBE_ASKED = "probe_asked"
    PSI = "psi"
    PSI_KEYED = "psi_keyed"
    PSI_SIGNING = "psi_signing"
    PSI_SIGNED = "psi_signed"
    PSI_TAGS = "psi_tags"
    PSI_MATCHED = "psi_matched"
    PSI_COUNT = "psi_count"
    PSI_COUNT_ASKED = "psi_count_asked"
    PSI_COUNT_RAISED = "psi_count_raised"
    PSI_COUNT_OWN = "psi_count_own"
    PSI_STORED = "psi_stored"
    PSI_STORED_ASKED = "psi_stored_asked"
    PSI_STORED_CLAIMED = "psi_stored_claimed"
    MODEL_ASKED = "model_asked"
    MODEL_DESCRIBED = "model_described"
    WEIGHTS_SENT = "weights_sent"
    SPLIT = "split"
    SPLIT_PROPOSED = "split_proposed"
    PREDICT_PROPOSED = "predict_proposed"
    SERVE_PROPOSED = "serve_proposed"
    SERVING = "serving"
    READY = "ready"
    TRAIN = "train"
    TRAIN_DRAINING = "train_draining"
    TEST = "test"
    TEST_DRAINING = "test_draining"
    UPDATING = "updating"
    AVERAGING = "averaging"
    SCORING = "scoring"
    CHECKPOINT = "checkpoint"
    FINISHING = "finishing"
    CLOSED = "closed"
    FAILED = "failed"


ENDED = frozenset({State.CLOSED, State.FAILED})
"""The states in which late messages are ignored."""

COMPLETED: dict[State, State] = {
    State.PSI_MATCHED: State.SPLIT,
    State.PSI_STORED_CLAIMED: State.SPLIT,
    State.TRAIN_DRAINING: State.READY,
    State.TEST_DRAINING: State.READY,
}
"""The next state once everything that was announced has come: the last match or reply, or
`BatchDone` for every batch. After the last match by one key, and if the plan says that there are
more keys, the next state is `PSI` again.
"""

Table = dict[State, dict[tuple[Role, type[Message]], State]]

_H, _C = Role.HOST, Role.COLLABORATOR

TABLE: Table = {
    State.CONNECTING: {(_C, Hello): State.GREETED},
    State.GREETED: {
        (_H, Welcome): State.PSI,
        (_H, WelcomeBack): State.READY,
        (_H, Terms): State.CLOSED,
        (_H, ProbeBegin): State.PROBE_BEGUN,  # where only the machines and the way are measured
    },
    State.PROBE_BEGUN: {(_H, ProbeFacts): State.PROBE},
    State.PROBE: {
        (_C, ProbePing): State.PROBE_ASKED,
        (_C, ProbeResult): State.CLOSED,
    },
    State.PROBE_ASKED: {(_H, ProbePong): State.PROBE},
    State.PSI: {
        (_C, PsiKey): State.PSI_KEYED,
        (_H, CountBegin): State.PSI_COUNT,  # where only the number of common ids is asked for
        (_C, StoredOffer): State.PSI_STORED,  # where a stored set is asked
        (_H, DescribeModel): State.MODEL_ASKED,  # a horizontal task, which compares no ids
    },
    State.MODEL_ASKED: {(_C, ModelLayout): State.MODEL_DESCRIBED},
    State.MODEL_DESCRIBED: {(_H, InitialWeights): State.WEIGHTS_SENT},
    State.WEIGHTS_SENT: {(_C, WeightsHeld): State.READY},
    State.PSI_KEYED: {
        (_H, PsiRenew): State.PSI,  # once, if the key is of an earlier connection
        (_H, PsiBegin): State.PSI_SIGNING,
    },
    State.PSI_SIGNING: {
        (_H, PsiBlinded): State.PSI_SIGNING,
        (_C, PsiSigned): State.PSI_SIGNING,
        (_H, PsiUnblinded): State.PSI_SIGNED,
    },
    State.PSI_SIGNED: {
        (_C, PsiTagged): State.PSI_SIGNED,
        (_C, PsiTags): State.PSI_TAGS,
    },
    State.PSI_TAGS: {
        (_C, PsiTags): State.PSI_TAGS,
        (_H, PsiMatched): State.PSI_MATCHED,
    },
    State.PSI_MATCHED: {(_H, PsiMatched): State.PSI_MATCHED},
    State.PSI_COUNT: {(_C, CountReady): State.PSI_COUNT_ASKED},
    State.PSI_COUNT_ASKED: {
        (_H, CountBlinded): State.PSI_COUNT_ASKED,
        (_C, PsiTagged): State.PSI_COUNT_ASKED,
        (_C, CountRaised): State.PSI_COUNT_RAISED,
    },
    State.PSI_COUNT_RAISED: {
        (_C, CountRaised): State.PSI_COUNT_RAISED,
        (_C, CountOwn): State.PSI_COUNT_OWN,
    },
    State.PSI_COUNT_OWN: {
        (_C, CountOwn): State.PSI_COUNT_OWN,
        (_H, CountResult): State.SPLIT,
    },
    State.PSI_STORED: {(_H, StoredBegin): State.PSI_STORED_ASKED},
    State.PSI_STORED_ASKED: {
        (_C, StoredFilter): State.PSI_STORED_ASKED,
        (_H, StoredBlinded): State.PSI_STORED_ASKED,
        (_C, StoredEvaluated): State.PSI_STORED_ASKED,
        (_H, StoredClaims): State.PSI_STORED_CLAIMED,
    },
    State.PSI_STORED_CLAIMED: {
        (_H, StoredClaims): State.PSI_STORED_CLAIMED,
        (_C, StoredReplies): State.PSI_STORED_CLAIMED,
    },
    State.SPLIT: {
        (_H, SplitParts): State.SPLIT,  # if the Host announces the split
        (_H, SplitPlan): State.SPLIT_PROPOSED,
        (_H, PredictPlan): State.PREDICT_PROPOSED,  # a prediction: a test of other rows
        (_H, ServePlan): State.SERVE_PROPOSED,
        (_H, Finish): State.FINISHING,  # a task that only intersects or counts ids
    },
    State.SPLIT_PROPOSED: {
        (_C, SiteShare): State.SPLIT_PROPOSED,  # the sites of a role agree on their first weights
        (_H, SiteSum): State.SPLIT_PROPOSED,
        (_C, SplitAccepted): State.READY,
    },
    State.PREDICT_PROPOSED: {(_C, PredictAccepted): State.READY},
    State.SERVE_PROPOSED: {(_C, ServeAccepted): State.SERVING},
    State.SERVING: {
        (_H, ServeRequest): State.SERVING,
        (_C, ServeAnswer): State.SERVING,
        (_H, ServePlan): State.SERVING,  # another version, beside that which is served
        (_C, ServeAccepted): State.SERVING,
        (_H, Finish): State.FINISHING,
    },
    State.READY: {
        (_H, ServePlan): State.SERVE_PROPOSED,  # a link that comes back with its table
        (_H, SiteRows): State.READY,  # at a site of a role, before each round and each test
        (_H, BeginTrain): State.TRAIN,
        (_H, BeginTest): State.TEST,
        (_H, Findings): State.READY,  # once, after the final evaluation
        (_H, BeginUpdate): State.UPDATING,
        (_H, Average): State.READY,  # at a party that does not train in this round
        (_H, BeginScores): State.SCORING,
        (_H, Checkpoint): State.CHECKPOINT,
        (_H, RoundEnd): State.CHECKPOINT,
        (_H, Finish): State.FINISHING,
    },
    State.TRAIN: {
        (_C, Features): State.TRAIN,
        (_H, Gradients): State.TRAIN,
        (_H, BatchDone): State.TRAIN,
        (_C, GradientsSeen): State.TRAIN,  # masked sums alone, as the next one
        (_H, SeenByOthers): State.TRAIN,
        (_C, SiteShare): State.TRAIN,  # a site of a role alone, as the next one
        (_H, SiteSum): State.TRAIN,
        (_C, EndOfFeatures): State.TRAIN_DRAINING,
    },
    State.TRAIN_DRAINING: {
        (_H, Gradients): State.TRAIN_DRAINING,
        (_H, BatchDone): State.TRAIN_DRAINING,
    },
    State.TEST: {
        (_C, Features): State.TEST,
        (_H, BatchDone): State.TEST,
        (_C, EndOfFeatures): State.TEST_DRAINING,
    },
    State.TEST_DRAINING: {(_H, BatchDone): State.TEST_DRAINING},
    State.UPDATING: {(_C, Update): State.AVERAGING},
    State.AVERAGING: {(_H, Average): State.READY},
    State.SCORING: {(_C, Scores): State.READY},
    State.CHECKPOINT: {(_C, CheckpointHeld): State.READY},
    State.FINISHING: {(_C, Bye): State.CLOSED},
    State.CLOSED: {},
    State.FAILED: {},
}

for _state, _rows in TABLE.items():
    if _state not in ENDED:
        _rows[_H, Abort] = State.FAILED
        _rows[_C, Abort] = State.FAILED
        _rows[_H, Waiting] = _state
