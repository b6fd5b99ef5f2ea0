"""What the controlled experiments are judged by: every statement with its region; the experiments say what was found.

Light, so that the ledger of claims can read it without torch.
"""

from __future__ import annotations

from dataclasses import replace

from experiments.reward_metrics.statements import Kind, Statement

ERRORS = "When Errors Can Be Beneficial, "
TEACHER = "What Makes a Reward Model a Good Teacher?, "
FIRST = "2026-11-23"  # before any of these experiments had published results
LEDGER = "2026-11-25"
REVIEW = "2026-11-30"  # measured or bounded anew after a review of the published results

# imperfect_rewards ---------------------------------------------------------------------------------------------------

PROXY_FIRST = Statement(
    id="imperfect_rewards.proxy_first",
    says="the ground truth reward is not the best reward to train on: the proxy reaches y* earlier",
    source=ERRORS + "section 3.3",
    unit="",
    ruled=FIRST,
    above=1.0,
)
EARLY_STOP = Statement(
    id="imperfect_rewards.early_stop",
    says="a run that stops early draws the opposite conclusion",
    source=ERRORS + "section 3.3",
    unit="",
    ruled=FIRST,
    above=0.0,
)
HIGHER_VARIANCE = Statement(
    id="imperfect_rewards.higher_variance",
    says="more than the paper claims: of two rewards the one with higher variance is the better teacher",
    source=f"a rule that one might read into {TEACHER}section 3, which says only that low variance is slow",
    unit="",
    ruled=FIRST,
    kind=Kind.ours,
    above=1.0,
)
NEGATIVE_PRODUCT = Statement(
    id="imperfect_rewards.negative_product",
    says="a negative inner product of the features of y* and the mediocre output worsens stalling",
    source=ERRORS + "appendix A.1",
    unit="",
    ruled=FIRST,
    above=1.0,
)
POSITIVE_PRODUCT = Statement(
    id="imperfect_rewards.positive_product",
    says="a positive inner product helps the ground truth reward",
    source=ERRORS + "appendix A.1",
    unit="",
    ruled=FIRST,
    above=1.0,
)
SAMPLED_PROXY = Statement(
    id="imperfect_rewards.sampled_proxy",
    says="sampled updates, too, reach y* more often on the proxy",
    source=ERRORS + "appendix C",
    unit="seeds",
    ruled=FIRST,
    above=0.0,
)

# phase_diagram -------------------------------------------------------------------------------------------------------

TRUTH_EXPONENT = Statement(
    id="phase_diagram.truth_exponent",
    says="training on the ground truth takes time at least of order p*^(-14/13)",
    source=ERRORS + "main theorem",
    unit="initial policies",
    ruled=FIRST,
    at_most=-14 / 13,
)
PROXY_EXPONENT = Statement(
    id="phase_diagram.proxy_exponent",
    says="training on the proxy takes time at most of order p*^(-1); .05 is left for the finite range",
    source=ERRORS + "main theorem",
    unit="initial policies",
    ruled=FIRST,
    at_least=-1.05,
)
DERIVED_EXPONENT = Statement(
    id="phase_diagram.derived_exponent",
    says="the exponent under the ground truth is -(number of bad outputs + 1), within 10 %",
    source="derived here (predicted_exponent)",
    unit="initial policies",
    ruled=FIRST,
    kind=Kind.ours,
    at_least=0.9,
    at_most=1.1,
)
REVERSAL = Statement(
    id="phase_diagram.reversal",
    says="a positive inner product can reverse the conclusion: rewarding the mediocre output helps",
    source=ERRORS + "appendix A.1",
    unit="",
    ruled=FIRST,
    below=0.0,
)
WORSE_STALLING = Statement(
    id="phase_diagram.worse_stalling",
    says="negative inner products worsen stalling under the ground truth",
    source=ERRORS + "appendix A.1",
    unit="",
    ruled=FIRST,
    at_least=1.0,
)

# error_categories ----------------------------------------------------------------------------------------------------


def _category(
    name: str, says: str, *, at_most: float | None = None, above: float | None = None, below: float | None = None
) -> tuple[Statement, Statement]:
    """On tabular policies, of which the paper's theorem speaks, and on random features, of which it does not."""
    tabular = Statement(
        id=f"error_categories.{name}",
        says=f"{says} (tabular)",
        source=ERRORS + "categories of reward errors",
        unit="problems",
        ruled=REVIEW,
        at_most=at_most,
        above=above,
        below=below,
    )
    features = replace(
        tabular,
        id=f"error_categories.features.{name}",
        says=f"{says} (random features)",
        kind=Kind.ours,
        aside="ours: the paper's conditions are for orthonormal features",
    )
    return tabular, features


# By name of the category, each judged after every recorded number of updates.
CATEGORIES: dict[str, tuple[Statement, Statement]] = {
    "harmful_hacking": _category("harmful_hacking", "harmful errors of type I (hacking) lower ground truth", below=0.0),
    "harmful_stalling": _category(
        "harmful_stalling", "harmful errors of type II (stalling) lower ground truth", below=0.0
    ),
    "benign_unattractive": _category(
        "benign_unattractive",
        "benign errors of type I (never attractive) change ground truth by at most .02 on average",
        at_most=0.02,
    ),
    "benign_unlikely": _category(
        "benign_unlikely",
        "benign errors of type II (negligible probability) change ground truth by at most .02 on average",
        at_most=0.02,
    ),
    "beneficial": _category("beneficial", "beneficial errors raise ground truth", above=0.0),
}

# reward_variance -----------------------------------------------------------------------------------------------------

TIME_EXPONENT = Statement(
    id="reward_variance.time_exponent",
    says="the time to a fixed gain grows at least as variance^(-1/3)",
    source=TEACHER + "Theorem 1",
    unit="problems",
    ruled=FIRST,
    at_most=-1 / 3,
)
GRADIENT_EXPONENT = Statement(
    id="reward_variance.gradient_exponent",
    says="the gradient vanishes at least as variance^(1/3)",
    source=TEACHER + "section 3, gradient bound of arXiv 2310.20703",
    unit="problems",
    ruled=FIRST,
    at_least=1 / 3,
)
SHRUNK_TIME = Statement(
    id="reward_variance.shrunk_time",
    says="of shrunk rewards the time to a fixed gain grows as variance^(-1/2)",
    source="gradient flow scales with the reward",
    unit="problems",
    ruled=REVIEW,
    kind=Kind.check,
    at_least=-0.501,
    at_most=-0.499,
)
SHRUNK_GRADIENT = Statement(
    id="reward_variance.shrunk_gradient",
    says="of shrunk rewards the gradient vanishes as variance^(1/2)",
    source="the gradient scales with the reward",
    unit="problems",
    ruled=REVIEW,
    kind=Kind.check,
    at_least=0.499,
    at_most=0.501,
)
SHRUNK_SLOW = Statement(
    id="reward_variance.shrunk_slow",
    says="a perfectly accurate reward model whose rewards are shrunk by 1,000 takes 1,000 times as long",
    source=TEACHER + "Theorem 2; gradient flow scales with the reward",
    unit="problems",
    ruled=REVIEW,
    kind=Kind.check,
    at_least=999.0,
    at_most=1001.0,
)
FAST_INACCURATE = Statement(
    id="reward_variance.fast_inaccurate",
    says="a reward model of accuracy at most 2/|Y| can be fast: time of order 1 / pi_0(best output), exponent at least "
    "-1.05",
    source=TEACHER + "Theorem 2",
    unit="problems",
    ruled=FIRST,
    at_least=-1.05,
)
INACCURATE = Statement(
    id="reward_variance.inaccurate",
    says="that reward model's accuracy is at most 2/|Y| (as a multiple of it)",
    source=TEACHER + "Theorem 2",
    unit="",
    ruled=REVIEW,
    kind=Kind.check,
    at_most=1 + 1e-12,
)
BEST_OF = Statement(
    id="reward_variance.best_of",
    says="for best-of-N a perfectly accurate reward model is the best one, however low its variance",
    source=TEACHER + "Proposition 1",
    unit="problems",
    ruled=FIRST,
    at_least=0.0,
)

# teacher_bandit ------------------------------------------------------------------------------------------------------

VARIANCE_PROXY = Statement(
    id="teacher_bandit.variance_proxy",
    says="reward variance predicts the increase of the proxy reward: r of at least .95 (paper: .982)",
    source=TEACHER + "Table 2",
    unit="seeds",
    ruled=FIRST,
    at_least=0.95,
)
VARIANCE_TRUTH = Statement(
    id="teacher_bandit.variance_truth",
    says="reward variance predicts the increase of the ground truth reward: r of at least .5 (paper: .834)",
    source=TEACHER + "Table 2",
    unit="seeds",
    ruled=FIRST,
    at_least=0.5,
)
ON_POLICY_ALONE = Statement(
    id="teacher_bandit.on_policy_alone",
    says="on-policy accuracy alone does not predict it: r is not positive (paper: -.283)",
    source=TEACHER + "Table 2",
    unit="seeds",
    ruled=FIRST,
    at_most=0.0,
)
OFF_POLICY_ALONE = Statement(
    id="teacher_bandit.off_policy_alone",
    says="off-policy accuracy alone does not predict it: r is not positive (paper: -.507)",
    source=TEACHER + "Table 2",
    unit="seeds",
    ruled=FIRST,
    at_most=0.0,
)
TOGETHER = Statement(
    id="teacher_bandit.together",
    says="variance and accuracy together predict ground truth better than variance alone (paper: .940 and .834)",
    source=TEACHER + "Table 2",
    unit="seeds",
    ruled=LEDGER,
    above=0.0,
)
PERFECT_IS_SLOW = Statement(
    id="teacher_bandit.perfect_is_slow",
    says="a perfectly accurate reward model of low variance is a worse teacher than a less accurate one",
    source=TEACHER + "Figure 2",
    unit="seeds",
    ruled=FIRST,
    below=0.0,
)
EARLY_PROXIES = Statement(
    id="teacher_bandit.early_proxies",
    says="after a quarter of the updates the best proxy, chosen by the other seeds, is ahead of training on the ground "
    "truth itself",
    source=TEACHER + "Figure 2",
    unit="seeds",
    ruled=REVIEW,
    above=0.0,
)
RANDOM_VARIANCE = Statement(
    id="teacher_bandit.random_variance",
    says="over random reward models, too, reward variance predicts the increase",
    source=TEACHER + "section 4.1, beyond its six reward models",
    unit="seeds",
    ruled=FIRST,
    kind=Kind.ours,
    above=0.0,
)
RANDOM_ACCURACY = Statement(
    id="teacher_bandit.random_accuracy",
    says="at independent variance, accuracy does predict ground truth",
    source="derived here: Table 2's negative sign comes from the six models' profile",
    unit="seeds",
    ruled=FIRST,
    kind=Kind.ours,
    above=0.0,
)
HARM_AWARE_BETTER = Statement(
    id="teacher_bandit.harm_aware_better",
    says="harm-aware accuracy predicts ground truth better than accuracy",
    source=ERRORS + "section 4",
    unit="seeds",
    ruled=FIRST,
    above=0.0,
)
CONTROL_VARIANCE = Statement(
    id="teacher_bandit.control_variance",
    says="without between-prompt spread all five proxies have nearly the same normalised variance",
    source="negative control of design D1",
    unit="seeds",
    ruled=FIRST,
    kind=Kind.ours,
    at_most=0.1,
)
CONTROL_SPEED = Statement(
    id="teacher_bandit.control_speed",
    says="and nearly the same speed of the proxy reward",
    source="negative control of design D1",
    unit="seeds",
    ruled=FIRST,
    kind=Kind.ours,
    at_most=0.15,
)
CONTROL_ACCURACY = Statement(
    id="teacher_bandit.control_accuracy",
    says="so that on-policy accuracy decides the increase of ground truth",
    source="negative control of design D1",
    unit="seeds",
    ruled=FIRST,
    kind=Kind.ours,
    at_least=0.8,
)

# policy_dependence ---------------------------------------------------------------------------------------------------

OWN_TEACHER = Statement(
    id="policy_dependence.own_teacher",
    says="on each policy its own reward model is the better teacher, by more than 100 times (log10 of the ratio)",
    source=TEACHER + "Theorem 3",
    unit="initial policies",
    ruled=FIRST,
    kind=Kind.check,
    at_least=2.0,
)
NO_BOUND = Statement(
    id="policy_dependence.no_bound",
    says="the gap has no bound: it grows as the excluded output gets rarer",
    source=TEACHER + "Theorem 3",
    unit="initial policies",
    ruled=FIRST,
    kind=Kind.check,
    at_most=-0.5,
)

# partial_credit ------------------------------------------------------------------------------------------------------

EASY_AND_RARE = Statement(
    id="partial_credit.easy_and_rare",
    says="where one constraint is easy and both together are rare, partial credit stalls and binary credit is faster",
    source=ERRORS + "section 5",
    unit="",
    ruled=FIRST,
    above=0.0,
)
BOTH_RARE = Statement(
    id="partial_credit.both_rare",
    says="where both together are rare and the parts have probabilities of .05 and .02, partial credit is faster",
    source="design D4, after " + ERRORS + "section 5",
    unit="",
    ruled=REVIEW,
    kind=Kind.ours,
    below=0.0,
)
SHARING_ALONE = Statement(
    id="partial_credit.sharing_alone",
    says="shared features alone make partial credit faster, however easy one of the constraints is",
    source="design D4",
    unit="",
    ruled=FIRST,
    kind=Kind.ours,
    below=0.0,
)
MORE_SHARING = Statement(
    id="partial_credit.more_sharing",
    says="more sharing of features makes partial credit relatively faster wherever both together are rare",
    source="design D4",
    unit="",
    ruled=REVIEW,
    kind=Kind.ours,
    at_least=1.0,
)
STD_RELIEF = Statement(
    id="partial_credit.std_relief",
    says="dividing advantages by their std leaves a half to a quarter of the log10 penalty of partial credit (median)",
    source="design D4",
    unit="",
    ruled=REVIEW,
    kind=Kind.ours,
    at_least=0.25,
    at_most=0.5,
)
SAMPLED_AGREES = Statement(
    id="partial_credit.sampled_agrees",
    says="the credit that exact gradients favour wins under sampled GRPO, too",
    source=ERRORS + "section 5, sampled",
    unit="seeds",
    ruled=FIRST,
    kind=Kind.ours,
    above=0.0,
)
NEXT_TO_NONE = Statement(
    id="partial_credit.next_to_none",
    says="where joint success is next to none, partial credit may be needed",
    source=ERRORS + "section 5 and appendix C.3",
    unit="seeds",
    ruled=FIRST,
    above=0.0,
)

# learnable_variance --------------------------------------------------------------------------------------------------

SIGNALS = "this project: docs/teaching_signal.md"
EQUALS = "with equal variance, accuracy and learning signal the ground truth"
LEARNABLE_SPEED = Statement(
    id="learnable_variance.speed",
    says="of reward models with equal variance, those whose variance is learnable are faster, in proportion",
    source=SIGNALS,
    unit="seeds",
    ruled=REVIEW,
    kind=Kind.ours,
    at_least=0.8,
    at_most=1.2,
)
UNLEARNABLE = Statement(
    id="learnable_variance.unlearnable",
    says="a reward model whose variance cannot be learned teaches nothing, as accurate as it is",
    source=SIGNALS,
    unit="seeds",
    ruled=REVIEW,
    kind=Kind.ours,
    at_least=-1e-9,
    at_most=1e-9,
)
ALIGNED_RISES = Statement(
    id="learnable_variance.aligned",
    says=f"{EQUALS} rises if the learnable part points along its own",
    source=SIGNALS,
    unit="seeds",
    ruled=REVIEW,
    kind=Kind.ours,
    at_least=0.0,
)
OPPOSED_FALLS = Statement(
    id="learnable_variance.opposed",
    says=f"{EQUALS} falls if the learnable part points against its own",
    source=SIGNALS,
    unit="seeds",
    ruled=REVIEW,
    kind=Kind.ours,
    at_most=0.0,
)
SIGNAL_PREDICTS = Statement(
    id="learnable_variance.signal_predicts",
    says="the teaching signal says beforehand how much the ground truth will gain",
    source=SIGNALS,
    unit="seeds",
    ruled=REVIEW,
    kind=Kind.ours,
    at_least=0.9,
)

STATEMENTS: tuple[Statement, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Statement)
) + tuple(statement for pair in CATEGORIES.values() for statement in pair)
